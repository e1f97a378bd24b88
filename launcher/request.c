/* What the runtime gave. */

#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

extern char **environ;

/* The kernel's mark on a path whose file was replaced since we were started: by an upgrade, under the same name. */
static void strip_deleted(char *path)
{
    static const char mark[] = " (deleted)";
    size_t length = strlen(path), suffix = sizeof mark - 1;
    if (length > suffix && strcmp(path + length - suffix, mark) == 0 && access(path, F_OK) != 0) {
        path[length - suffix] = '\0';
    }
}

/*
 * Where we are, and by the last part of it, which plugin. Symbolic links are resolved, as for the frozen plugins; of
 * several hard links it is the one that was executed. argv[0] is any text the caller likes; AT_EXECFN, what execve(2)
 * was given, serves where there is no /proc.
 */
bool find_executable(struct request *request)
{
    ssize_t length = readlink("/proc/self/exe", request->executable, sizeof request->executable - 1);
    if (length > 0 && (size_t)length < sizeof request->executable - 1) {
        request->executable[length] = '\0';
        strip_deleted(request->executable);
    } else if (realpath((const char *)getauxval(AT_EXECFN), request->executable) == NULL) {
        return false;
    }
    const char *slash = strrchr(request->executable, '/');
    if (slash == NULL) {
        errno = ENOENT;
        return false;
    }
    request->type = slash + 1;
    return true;
}

/*
 * All variables, each with its NUL: plugins of others that a plugin executes are to have "the same environment" (CNI
 * specification 1.1.0, section 4), and only they know which of it they need.
 */
bool gather_environment(struct request *request)
{
    for (char **variable = environ; *variable != NULL; variable++) {
        size_t size = strlen(*variable) + 1;
        if (strchr(*variable, '=') == NULL || **variable == '=') {
            continue;
        }
        if (size > sizeof request->environment - request->environment_length) {
            return false;
        }
        memcpy(request->environment + request->environment_length, *variable, size);
        request->environment_length += size;
    }
    return true;
}

/* All of stdin. The memory for the largest is asked for at once: the kernel gives it page by page as it is used. */
bool read_config(struct request *request)
{
    const size_t room = CONFIG_LIMIT + 1;
    request->config = malloc(room);
    if (request->config == NULL) {
        return false;
    }
    while (request->config_length < room) {
        ssize_t got = read(STDIN_FILENO, request->config + request->config_length, room - request->config_length);
        if (got == 0) {
            break;
        }
        if (got > 0) {
            request->config_length += (size_t)got;
        } else if (errno == EAGAIN) {
            struct pollfd ready = {.fd = STDIN_FILENO, .events = POLLIN};
            poll(&ready, 1, -1);
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

/* The pod's namespace, for an agent that may not see its path. What can not be opened is for the plugin to judge. */
void open_netns(struct request *request)
{
    const char *path = getenv("CNI_NETNS");
    if (path != NULL && *path != '\0') {
        request->netns = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    }
}
