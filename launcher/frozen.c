/* The fallback: executes the frozen Python plugin. */

#include "launcher.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FROZEN "slash24.d"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U /* Linux 6.3 */
#endif

extern char **environ;

/* Makes the configuration readable on stdin again, if it was read. */
static bool replay(const struct request *request)
{
    if (request->config == NULL) {
        return true;
    }
    int file = memfd_create("stdin", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (file < 0 && errno == EINVAL) {
        file = memfd_create("stdin", MFD_CLOEXEC);
    }
    return file >= 0 && write_all(file, request->config, request->config_length) && lseek(file, 0, SEEK_SET) == 0 &&
           dup2(file, STDIN_FILENO) == STDIN_FILENO;
}

/* Executes another path with the caller's arguments. Returns only on failure. */
static void execute(char *path, int argc, char **argv)
{
    char *alone[] = {path, NULL};
    if (argc > 0) {
        argv[0] = path;
    }
    execve(path, argc > 0 ? argv : alone, environ);
}

int run_frozen(const struct request *request, int argc, char **argv)
{
    char path[PATH_MAX + sizeof FROZEN + 1], details[sizeof path + 128];
    int folder = (int)(request->type - request->executable); /* including the slash */
    enum code code;
    snprintf(path, sizeof path, "%.*s" FROZEN "/%s", folder, request->executable, request->type);
    if (!replay(request)) {
        return fail(request, code_of(errno), "cannot keep the network config for the plugin", strerror(errno));
    }
    execute(path, argc, argv);
    code = code_of(errno);
    snprintf(details, sizeof details, "%s: %s", strerror(errno), path);
    return fail(request, code, "no agent serves this call, and the plugin cannot be executed", details);
}

void run_again(const struct request *request, int argc, char **argv)
{
    static char self[] = "/proc/self/exe";
    if (replay(request)) {
        execute(self, argc, argv);
    }
}
