/* Output on stdout. */

#include "launcher.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define UNSTATED "0.1.0" /* the version of a configuration without cniVersion */
#define LATEST "1.1.0"

enum { SHOWN = 1024 }; /* bytes of a text that an error message repeats */

static const char *const supported[] = {"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};

bool write_all(int fd, const unsigned char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t written = write(fd, bytes, length);
        if (written >= 0) {
            bytes += written;
            length -= (size_t)written;
        } else if (errno == EAGAIN) {
            struct pollfd ready = {.fd = fd, .events = POLLOUT};
            poll(&ready, 1, -1);
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

static bool is_text(const unsigned char *bytes, size_t length, const char *text)
{
    return length == strlen(text) && strncasecmp((const char *)bytes, text, length) == 0;
}

static const char *known_version(const unsigned char *bytes, size_t length)
{
    if (length == 0) {
        return UNSTATED;
    }
    for (size_t i = 0; i < sizeof supported / sizeof *supported; i++) {
        if (is_text(bytes, length, supported[i])) {
            return supported[i];
        }
    }
    return LATEST;
}

/* The index of the closing quote of the string that starts at `from`; `length` if there is none. */
static size_t string_end(const unsigned char *text, size_t length, size_t from)
{
    while (from < length && text[from] != '"') {
        from += text[from] == '\\' ? 2 : 1;
    }
    return from < length ? from : length;
}

/* Whether the next character other than white space is a colon. */
static bool colon_follows(const unsigned char *text, size_t length, size_t from)
{
    while (from < length && memchr(" \t\r\n", text[from], 4) != NULL) {
        from++;
    }
    return from < length && text[from] == ':';
}

/*
 * The version for an error document: the configuration's if it is supported, else the latest. Not a JSON parser: it
 * tracks strings and brackets, which suffices to find a key of the outermost object in valid JSON.
 */
const char *version_of(const unsigned char *config, size_t length)
{
    const char *version = NULL;
    size_t depth = 0, objects = 0;
    bool stating = false;
    for (size_t at = 0; at < length; at++) {
        if (config[at] == '"') {
            const unsigned char *string = config + at + 1;
            size_t end = string_end(config, length, at + 1), size = end - at - 1;
            if (depth == 1 && colon_follows(config, length, end + 1)) {
                stating = is_text(string, size, "cniVersion");
                version = stating ? LATEST : version; /* unless a string follows */
            } else if (depth == 1 && stating) {
                version = known_version(string, size);
            }
            at = end;
        } else if (config[at] == '{' || config[at] == '[') {
            objects += depth++ == 0 && config[at] == '{';
        } else if ((config[at] == '}' || config[at] == ']') && depth > 0) {
            depth--;
        }
    }
    if (version != NULL) {
        return version;
    }
    return depth == 0 && objects == 1 ? UNSTATED : LATEST;
}

/* `text` as the content of a JSON string; anything but printable ASCII becomes a question mark. */
static const char *escaped(const char *text, char room[2 * SHOWN + 1])
{
    char *to = room;
    for (size_t i = 0; text[i] != '\0' && i < SHOWN; i++) {
        if (text[i] == '"' || text[i] == '\\') {
            *to++ = '\\';
        }
        *to++ = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    }
    *to = '\0';
    return room;
}

/* The error code of an errno: "try again later" for a shortage of descriptors, memory or processes. */
enum code code_of(int number)
{
    return number == EAGAIN || number == EMFILE || number == ENFILE || number == ENOMEM ? TRY_AGAIN_LATER : IO_FAILURE;
}

/* Prints an error document, formatted as by spec/jsontext.py; returns the exit status. */
int fail(const struct request *request, enum code code, const char *message, const char *details)
{
    char rooms[2][2 * SHOWN + 1], document[sizeof rooms + 256];
    int length = snprintf(document, sizeof document,
                          "{\n    \"cniVersion\": \"%s\",\n    \"code\": %d,\n    \"msg\": \"%s\"%s%s%s\n}",
                          version_of(request->config, request->config_length), (int)code, escaped(message, rooms[0]),
                          *details == '\0' ? "" : ",\n    \"details\": \"", escaped(details, rooms[1]),
                          *details == '\0' ? "" : "\"");
    signal(SIGPIPE, SIG_IGN); /* if the caller has gone, the exit status stays the same */
    write_all(STDOUT_FILENO, (const unsigned char *)document, (size_t)length);
    return EXIT_FAILURE;
}
