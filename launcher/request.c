/* The runtime's input. */

#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

extern char **environ;

/* Removes the suffix that the kernel adds if the file was replaced since we started, for example by an upgrade. */
static void strip_deleted(char *path)
{
    static const char deleted[] = " (deleted)";
    size_t length = strlen(path), suffix = sizeof deleted - 1;
    if (length > suffix && strcmp(path + length - suffix, deleted) == 0 && access(path, F_OK) != 0) {
        path[length - suffix] = '\0';
    }
}

/*
 * Our own path; its base name is the plugin's. Symbolic links are resolved, as for the frozen plugins; of several hard
 * links it is the one that was executed. argv[0] can be any text. Without /proc, AT_EXECFN has the path that was passed
 * to execve(2).
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
 * All variables, each with its NUL: a delegated plugin is executed with "the same environment" (CNI specification
 * 1.1.0, section 4), and may need any of it.
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

/* All of stdin. Allocates the maximum at once, since the kernel provides pages only as they are used. */
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

/* The pod's namespace, for an agent that may not see its path. The plugin reports errors. */
void open_netns(struct request *request)
{
    const char *path = getenv("CNI_NETNS");
    if (path != NULL && *path != '\0') {
        request->netns = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    }
}
