/* Control flow of a call. */

#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEXT(number) #number
#define MARK(protocol) "slash24 launcher, protocol " TEXT(protocol)

/* By this text plugins recognise a launcher under any name, also as a copy: spec/delegate.py. */
__attribute__((used, retain)) static const char mark[] = MARK(PROTOCOL);

/* Opens /dev/null for standard streams that the caller has closed, so that no other file gets their descriptor. */
static void hold_standard_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) {
            _exit(EXIT_FAILURE);
        }
    }
}

static bool is_command(const char *command)
{
    return strcmp(getenv("CNI_COMMAND"), command) == 0;
}

/* Runs DEL after an ADD whose result was not delivered, in a launcher process of its own. */
static void undo_add(const struct request *request, int argc, char **argv)
{
    pid_t child = fork();
    if (child == 0) {
        if (setenv("CNI_COMMAND", "DEL", 1) == 0) {
            run_again(request, argc, argv);
        }
        _exit(EXIT_FAILURE);
    }
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR) {
    }
}

/* Writes the agent's reply to our streams; if that fails, so does the call. */
static int pass_on(const struct request *request, const struct reply *reply, int argc, char **argv)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    sigaction(SIGPIPE, &ignore, &before);
    write_all(STDERR_FILENO, reply->stderr_bytes, reply->stderr_length);
    if (write_all(STDOUT_FILENO, reply->stdout_bytes, reply->stdout_length)) {
        return reply->status;
    }
    sigaction(SIGPIPE, &before, NULL);
    if (reply->status == 0 && is_command("ADD")) {
        undo_add(request, argc, argv);
    }
    return EXIT_FAILURE;
}

/* Reads the runtime's input; returns 0, or the exit status if the call ends here. */
static int take(struct request *request)
{
    if (is_command("VERSION")) {
        return 0; /* does not read stdin, which may be a terminal */
    }
    if (!read_config(request)) {
        return fail(request, code_of(errno), "error reading from stdin", strerror(errno));
    }
    if (request->config_length > CONFIG_LIMIT) {
        request->config_length = 0; /* incomplete, so its version is unknown */
        return fail(request, DECODING_FAILURE, "network config of more than 16777216 bytes", "");
    }
    open_netns(request);
    return 0;
}

int main(int argc, char **argv)
{
    static struct request request;
    struct reply reply;
    const char *reason = "";

    request.netns = -1;
    hold_standard_streams();
    if (!find_executable(&request)) {
        return fail(&request, INTERNAL, "cannot tell which plugin this is", strerror(errno));
    }
    const char *command = getenv("CNI_COMMAND");
    if (command == NULL || *command == '\0' || strlen(request.type) > TYPE_LIMIT || !gather_environment(&request)) {
        return run_frozen(&request, argc, argv);
    }
    int status = take(&request);
    if (status != 0) {
        return status;
    }
    switch (carry(&request, &reply, &reason)) {
    case ANSWERED:
        status = pass_on(&request, &reply, argc, argv);
        free(reply.stdout_bytes);
        return status;
    case NOT_BEGUN:
        return run_frozen(&request, argc, argv);
    default:
        /* The agent may have done part of it, so the frozen plugin must not repeat it; the runtime's DEL cleans up. */
        return fail(&request, TRY_AGAIN_LATER, "the agent was lost in the middle of the call", reason);
    }
}
