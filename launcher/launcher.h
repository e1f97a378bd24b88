/*
 * The launcher: installed as the executable of every plugin, it passes calls to the agent.
 *
 * main.c     control flow of a call
 * request.c  the runtime's input: plugin name, environment, configuration, network namespace
 * wire.c     the protocol between launcher and agent
 * frozen.c   the fallback: executes the frozen Python plugin
 * answer.c   output on stdout
 */

#ifndef LAUNCHER_H
#define LAUNCHER_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The protocol's version, sent to the agent (wire.c) and embedded in the executable (main.c). */
#define PROTOCOL 2

enum {
    TYPE_LIMIT = 64,
    ENVIRONMENT_LIMIT = 256 << 10,
    CONFIG_LIMIT = 16 << 20, /* as in spec/request.py */
    REPLY_LIMIT = 64 << 20,  /* stdout and stderr together */
};

/* Error codes of the CNI specification 1.1.0, section 5, "Error". */
enum code {
    IO_FAILURE = 5,
    DECODING_FAILURE = 6,
    TRY_AGAIN_LATER = 11,
    INTERNAL = 999,
};

struct request {
    char executable[PATH_MAX]; /* our own path, links resolved */
    const char *type;          /* its base name */
    unsigned char environment[ENVIRONMENT_LIMIT];
    size_t environment_length;
    unsigned char *config; /* NULL: stdin has not been read */
    size_t config_length;
    int netns; /* -1: none */
};

struct reply {
    int status;
    unsigned char *stdout_bytes;
    size_t stdout_length;
    unsigned char *stderr_bytes; /* in the same allocation */
    size_t stderr_length;
};

enum outcome {
    ANSWERED,
    NOT_BEGUN, /* and never will be: another way of serving the call is safe */
    LOST,      /* the agent may have done any part of it */
};

/* request.c: each returns whether it succeeded; on failure errno is set. */
bool find_executable(struct request *request);
bool gather_environment(struct request *request); /* false: more than ENVIRONMENT_LIMIT */
bool read_config(struct request *request);        /* at most one byte more than CONFIG_LIMIT */
void open_netns(struct request *request);

/* wire.c: LOST sets `reason`, ANSWERED sets `reply` (whose stdout_bytes the caller frees). */
enum outcome carry(const struct request *request, struct reply *reply, const char **reason);
enum outcome converse(int agent, const struct request *request, struct reply *reply, const char **reason);

/* frozen.c: both return only on failure. */
int run_frozen(const struct request *request, int argc, char **argv);
void run_again(const struct request *request, int argc, char **argv);

/* answer.c */
bool write_all(int fd, const unsigned char *bytes, size_t length);
const char *version_of(const unsigned char *config, size_t length);
enum code code_of(int number);
int fail(const struct request *request, enum code code, const char *message, const char *details);

#endif
