/* Connections and streams between pods, for bench/policy_packets.py.
 *
 *   connections serve PORT                     answers until it is killed
 *   connections open ADDRESS PORT SECONDS      opens a connection, sends a byte, awaits it, closes; prints how many a second
 *   connections stream ADDRESS PORT SECONDS    sends on one connection; prints MB a second
 *
 * IPv4 and IPv6. A client closes by a reset: nothing waits in TIME_WAIT, and conntrack forgets the connection at once.
 */

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 17];

static void die(const char *what)
{
    fprintf(stderr, "connections: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void serve(int port)
{
    struct sockaddr_in6 local = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port)};
    int listener = socket(AF_INET6, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (listener < 0 || bind(listener, (struct sockaddr *)&local, sizeof local) < 0 || listen(listener, 512) < 0) {
        die("listen");
    }
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        if (peer < 0) {
            continue;
        }
        /* The first byte is the mode: 's', or anything else, which is sent back. */
        if (read(peer, buffer, 1) == 1) {
            if (buffer[0] == 's') {
                while (read(peer, buffer, sizeof buffer) > 0) {
                }
            } else if (write(peer, buffer, 1) < 0) {
                /* The client has gone. */
            }
        }
        close(peer);
    }
}

static int dial(const char *address, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
    if (getaddrinfo(address, port, &hints, &found) != 0) {
        die("address");
    }
    int sock = socket(found->ai_family, SOCK_STREAM, 0);
    if (sock < 0 || connect(sock, found->ai_addr, found->ai_addrlen) < 0) {
        die("connect");
    }
    freeaddrinfo(found);
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    setsockopt(sock, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    return sock;
}

static void open_many(const char *address, const char *port, double seconds)
{
    double begin = now();
    long count = 0;
    for (; now() - begin < seconds; count++) {
        int sock = dial(address, port);
        if (write(sock, "c", 1) != 1 || read(sock, buffer, 1) != 1) {
            die("exchange");
        }
        close(sock);
    }
    printf("%.1f\n", (double)count / (now() - begin));
}

static void stream(const char *address, const char *port, double seconds)
{
    int sock = dial(address, port);
    double begin = now(), bytes = 0;
    buffer[0] = 's';
    while (now() - begin < seconds) {
        ssize_t sent = write(sock, buffer, sizeof buffer);
        if (sent < 0) {
            die("send");
        }
        bytes += (double)sent;
    }
    printf("%.1f\n", bytes / (now() - begin) / 1e6);
    close(sock);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && strcmp(argv[1], "serve") == 0) {
        serve(atoi(argv[2]));
    } else if (argc == 5 && strcmp(argv[1], "open") == 0) {
        open_many(argv[2], argv[3], atof(argv[4]));
    } else if (argc == 5 && strcmp(argv[1], "stream") == 0) {
        stream(argv[2], argv[3], atof(argv[4]));
    } else {
        fprintf(stderr, "usage: connections serve PORT | open|stream ADDRESS PORT SECONDS\n");
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
