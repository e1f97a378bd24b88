/*
 * Fuzzes the parsers of the agent's messages and of the configuration: any input must give a consistent outcome.
 *
 * With libFuzzer:  clang -D_GNU_SOURCE -DLIBFUZZER -g -O1 -fsanitize=fuzzer,address,undefined fuzz.c wire.c answer.c
 * Without (build.sh --sanitized):  fuzz SECONDS [SEED]  mutates valid messages for that long; prints their number.
 */

#include "launcher.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t length);

static void check(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "fuzz: %s\n", what);
        abort();
    }
}

/* The outcome if the agent sends `data` and hangs up. */
static enum outcome outcome_of(const unsigned char *data, size_t length)
{
    static struct request request = {.type = "bridge", .netns = -1};
    struct reply reply;
    const char *reason = NULL;
    int ends[2];
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "no sockets");
    check(send(ends[1], data, length, MSG_DONTWAIT) == (ssize_t)length || length == 0, "the input does not fit");
    shutdown(ends[1], SHUT_WR);
    enum outcome outcome = converse(ends[0], &request, &reply, &reason);
    check((outcome == LOST) == (reason != NULL) || outcome == NOT_BEGUN, "a loss without a reason, or the reverse");
    if (outcome == ANSWERED) {
        const size_t before = 12 + 20;
        check(reply.status >= 0 && reply.status <= 255, "an invalid status");
        check(before + reply.stdout_length + reply.stderr_length <= length, "more bytes than were sent");
        check(memcmp(reply.stdout_bytes, data + before, reply.stdout_length) == 0, "another stdout");
        check(memcmp(reply.stderr_bytes, data + before + reply.stdout_length, reply.stderr_length) == 0,
              "another stderr");
        free(reply.stdout_bytes);
    }
    close(ends[0]);
    close(ends[1]);
    return outcome;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t length)
{
    static const char hello[] = "S24A\2\0\0\0\1\0\0"; /* and the NUL at its end */
    unsigned char greeted[4096];
    if (length > sizeof greeted - sizeof hello) {
        return 0;
    }
    outcome_of(data, length);
    memcpy(greeted, hello, sizeof hello);
    memcpy(greeted + sizeof hello, data, length);
    outcome_of(greeted, sizeof hello + length);
    unsigned char *exact = malloc(length + 1); /* so that the sanitizer detects an overrun by one byte */
    check(exact != NULL, "no memory");
    exact = realloc(exact, length > 0 ? length : 1);
    check(exact != NULL, "no memory");
    memcpy(exact, data, length);
    const char *version = version_of(exact, length);
    check(strlen(version) == 5, "an invalid version");
    free(exact);
    return 0;
}

#ifndef LIBFUZZER

static uint64_t state;

static size_t below(size_t bound)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (size_t)(state % bound);
}

static const struct {
    const char *bytes;
    size_t length;
} seeds[] = {
#define SEED(text) {text, sizeof text - 1}
    SEED("S24A\2\0\0\0\1\0\0\0S24R\2\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0{}"),
    SEED("S24R\2\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0{}no\n"),
    SEED("S24R\2\0\0\0\377\377\377\377\0\0\0\0\0\0\0\0"),
    SEED("S24R\2\0\0\0\0\0\0\0\0\0\0\4\0\0\0\0"),
    SEED("{\"cniVersion\": \"1.0.0\", \"name\": \"n\", \"x\": [{\"y\": \"\\\"\"}]}"),
    SEED("{\"CNIVERSION\" : \"0.4.0\", \"name\": {\"cniVersion\": \"0.3.1\"}}"),
};

static size_t mutate(unsigned char *data, size_t length, size_t room)
{
    static const unsigned char interesting[] = "\0\1\2\4\177\200\377\"\\{}[]: SRA2";
    size_t at = below(length + 1);
    switch (below(5)) {
    case 0:
        return at; /* cut off */
    case 1:
        if (length < room) { /* one more */
            memmove(data + at + 1, data + at, length - at);
            data[at] = interesting[below(sizeof interesting - 1)];
            return length + 1;
        }
        return length;
    case 2:
        if (at < length) { /* one less */
            memmove(data + at, data + at + 1, length - at - 1);
            return length - 1;
        }
        return length;
    case 3:
        if (at < length) {
            data[at] = interesting[below(sizeof interesting - 1)];
        }
        return length;
    default:
        if (at < length) {
            data[at] ^= (unsigned char)(1U << below(8));
        }
        return length;
    }
}

int main(int argc, char **argv)
{
    unsigned char data[256];
    unsigned long inputs = 0, answered = 0;
    if (argc < 2) {
        fprintf(stderr, "usage: fuzz SECONDS [SEED]\n");
        return 2;
    }
    time_t end = time(NULL) + strtol(argv[1], NULL, 10);
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)state);
    fflush(stdout); /* printed first, since the next input may crash */
    state |= 1;
    for (; time(NULL) < end; inputs++) {
        size_t seed = below(sizeof seeds / sizeof *seeds), length = seeds[seed].length;
        memcpy(data, seeds[seed].bytes, length);
        for (size_t changes = below(6); changes > 0; changes--) {
            length = mutate(data, length, sizeof data);
        }
        LLVMFuzzerTestOneInput(data, length);
        answered += outcome_of(data, length) == ANSWERED;
    }
    printf("%lu inputs, of which %lu were answers\n", inputs, answered);
    return inputs > 0 ? 0 : 1;
}

#endif
