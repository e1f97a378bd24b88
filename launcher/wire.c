/*
 * The protocol between launcher and agent, version 2: one connection per call, 32-bit little-endian integers.
 *
 *   agent     "S24A", version, seconds after which the launcher may stop waiting for the reply
 *   launcher  "S24Q", version, lengths of: plugin name, environment, configuration; device and inode of the root
 *             folder (64 bits each), which tell the agent whether both see the same files; then these three parts.
 *             The first byte carries the descriptor of the pod's network namespace, if there is one.
 *   agent     "S24R", version, exit status, lengths of: stdout, stderr; then these two
 *
 * Both sides start sending at once to save a round trip. An agent that has not greeted has not read anything, so the
 * call cannot have begun and the frozen plugin may serve it. After the greeting it may have begun once the whole
 * request was sent. A launcher that stops waiting for the greeting shuts the connection down (withdraw), so that a late
 * agent cannot send it.
 */

#include "launcher.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/slash24/cni.sock"

enum {
    HELLO = 12,
    REQUEST = 36,
    HEADER = 20,
    PARTS = 4,
    PATIENCE = 5, /* seconds for the agent to accept, read and greet; systemd may have to start it */
};

static const uint32_t DECLINED = UINT32_MAX;

static uint32_t get(const unsigned char *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static void put(unsigned char *to, size_t value)
{
    for (int byte = 0; byte < 4; byte++) {
        to[byte] = (unsigned char)(value >> 8 * byte);
    }
}

static void put_long(unsigned char *to, uint64_t value)
{
    put(to, (uint32_t)value);
    put(to + 4, (uint32_t)(value >> 32));
}

static bool starts(const unsigned char *message, const char *magic)
{
    return memcmp(message, magic, 4) == 0 && get(message + 4) == PROTOCOL;
}

static bool receive(int agent, unsigned char *to, size_t length)
{
    while (length > 0) {
        ssize_t got = recv(agent, to, length, 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            errno = got == 0 ? 0 : errno;
            return false;
        }
        to += got;
        length -= (size_t)got;
    }
    return true;
}

static void skip(struct msghdr *message, size_t sent)
{
    while (sent > 0) {
        size_t step = sent < message->msg_iov->iov_len ? sent : message->msg_iov->iov_len;
        message->msg_iov->iov_base = (unsigned char *)message->msg_iov->iov_base + step;
        message->msg_iov->iov_len -= step;
        sent -= step;
        if (message->msg_iov->iov_len == 0) {
            message->msg_iov++;
            message->msg_iovlen--;
        }
    }
}

static bool send_all(int agent, struct msghdr *message, size_t length)
{
    while (length > 0) {
        ssize_t sent = sendmsg(agent, message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent <= 0) {
            return false;
        }
        message->msg_control = NULL;
        message->msg_controllen = 0;
        skip(message, (size_t)sent);
        length -= (size_t)sent;
    }
    return true;
}

/* Returns whether the whole request was sent. */
static bool send_request(int agent, const struct request *request)
{
    unsigned char header[REQUEST] = "S24Q";
    size_t type_length = strlen(request->type);
    struct stat root = {0}; /* zeros do not match any agent's root */
    stat("/", &root);
    put(header + 4, PROTOCOL);
    put(header + 8, type_length);
    put(header + 12, request->environment_length);
    put(header + 16, request->config_length);
    put_long(header + 20, (uint64_t)root.st_dev);
    put_long(header + 28, (uint64_t)root.st_ino);
    struct iovec parts[PARTS] = {
        {header, REQUEST},
        {(void *)(uintptr_t)request->type, type_length},
        {(void *)(uintptr_t)request->environment, request->environment_length},
        {request->config, request->config_length},
    };
    union {
        struct cmsghdr header;
        unsigned char space[CMSG_SPACE(sizeof(int))];
    } control = {.space = {0}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = PARTS};
    if (request->netns >= 0) {
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &request->netns, sizeof(int));
        message.msg_control = control.space;
        message.msg_controllen = sizeof control.space;
    }
    return send_all(agent, &message, REQUEST + type_length + request->environment_length + request->config_length);
}

static enum outcome lost(const char **reason, const char *why)
{
    *reason = why;
    return LOST;
}

/* After a failed receive(). */
static enum outcome lost_at_end(const char **reason, const char *why)
{
    return lost(reason, errno == EAGAIN ? "it did not answer in time" : why);
}

/* `header` contains the first `got` bytes of the reply. */
static enum outcome receive_reply(int agent, unsigned char header[HEADER], size_t got, struct reply *reply,
                                  const char **reason)
{
    if (!receive(agent, header + got, HEADER - got)) {
        return lost_at_end(reason, "it hung up without an answer");
    }
    uint32_t status = get(header + 8);
    if (!starts(header, "S24R") || (status > UINT8_MAX && status != DECLINED)) {
        return lost(reason, "its answer is malformed");
    }
    if (status == DECLINED) {
        return NOT_BEGUN;
    }
    reply->status = (int)status;
    reply->stdout_length = get(header + 12);
    reply->stderr_length = get(header + 16);
    if (reply->stdout_length > REPLY_LIMIT || reply->stderr_length > REPLY_LIMIT - reply->stdout_length) {
        return lost(reason, "its answer exceeds 67108864 bytes");
    }
    /* Received completely before any of it is printed, since partial output cannot be withdrawn. */
    size_t length = reply->stdout_length + reply->stderr_length;
    reply->stdout_bytes = malloc(length + 1);
    if (reply->stdout_bytes == NULL) {
        return lost(reason, "not enough memory for its answer");
    }
    reply->stderr_bytes = reply->stdout_bytes + reply->stdout_length;
    if (!receive(agent, reply->stdout_bytes, length)) {
        enum outcome outcome = lost_at_end(reason, "it hung up in the middle of its answer");
        free(reply->stdout_bytes);
        return outcome;
    }
    return ANSWERED;
}

/* Sets the timeout of a single step of the agent. */
static bool set_patience(int agent, int option, time_t seconds)
{
    struct timeval limit = {.tv_sec = seconds};
    return setsockopt(agent, SOL_SOCKET, option, &limit, sizeof limit) == 0;
}

/* Receives the greeting, and the part of the reply that comes with it; returns the number of bytes. */
static size_t receive_hello(int agent, unsigned char to[HELLO + HEADER], int flags)
{
    size_t got = 0;
    while (got < HELLO) {
        ssize_t more = recv(agent, to + got, HELLO + HEADER - got, flags);
        if (more <= 0 && !(more < 0 && errno == EINTR)) {
            break;
        }
        got += more > 0 ? (size_t)more : 0;
    }
    return got;
}

/* Stops waiting; returns whether the agent had already greeted. */
static bool withdraw(int agent)
{
    unsigned char start[HELLO + HEADER];
    shutdown(agent, SHUT_RD);
    return receive_hello(agent, start, MSG_DONTWAIT) > 0;
}

/* One call over a connected socket. */
enum outcome converse(int agent, const struct request *request, struct reply *reply, const char **reason)
{
    unsigned char start[HELLO + HEADER];
    bool sent = send_request(agent, request);
    if (!sent && errno == EAGAIN) {
        return NOT_BEGUN; /* it does not read the request */
    }
    size_t got = receive_hello(agent, start, MSG_WAITALL);
    if (got < HELLO) {
        return withdraw(agent) && sent ? lost(reason, "it greeted too late") : NOT_BEGUN;
    }
    uint32_t seconds = get(start + 8); /* longer than its own deadline, at which it answers unless it is stopped */
    if (!starts(start, "S24A") || seconds == 0) {
        return NOT_BEGUN;
    }
    if (sent) {
        set_patience(agent, SO_RCVTIMEO, seconds);
    }
    enum outcome outcome = receive_reply(agent, start + HELLO, got - HELLO, reply, reason);
    /* An agent that refuses a request need not read all of it. */
    return !sent && outcome != ANSWERED ? NOT_BEGUN : outcome;
}

/* Whether the listener is trusted: it runs as root, or as the caller. */
static bool is_trusted(int agent)
{
    struct ucred owner;
    socklen_t size = sizeof owner;
    return getsockopt(agent, SOL_SOCKET, SO_PEERCRED, &owner, &size) == 0 && (owner.uid == 0 || owner.uid == geteuid());
}

/* Connects to the agent; returns the socket, or -1. If its queue is full, connect(2) waits for SO_SNDTIMEO. */
static int reach(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = getenv("SLASH24_SOCKET");
    if (path == NULL || *path == '\0') {
        path = DEFAULT_SOCKET;
    }
    size_t length = strlen(path);
    if (length >= sizeof address.sun_path) {
        return -1;
    }
    memcpy(address.sun_path, path, length);
    int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (agent < 0) {
        return -1;
    }
    bool connected = set_patience(agent, SO_SNDTIMEO, PATIENCE) && set_patience(agent, SO_RCVTIMEO, PATIENCE);
    while (connected && connect(agent, (const struct sockaddr *)&address, sizeof address) != 0) {
        connected = errno == EINTR;
    }
    if (!connected || !is_trusted(agent)) {
        close(agent);
        return -1;
    }
    return agent;
}

/* One call, including the connection. */
enum outcome carry(const struct request *request, struct reply *reply, const char **reason)
{
    int agent = reach();
    if (agent < 0) {
        return NOT_BEGUN;
    }
    enum outcome outcome = converse(agent, request, reply, reason);
    close(agent);
    return outcome;
}
