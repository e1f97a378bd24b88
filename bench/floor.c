/* The floor: the cost of a pod's interface for a program that only sends the kernel requests.
 *
 *   floor                                                    does nothing
 *   floor add  NETNS BRIDGE VETH ADDRESS PREFIX GATEWAY [nft]
 *   floor del  NETNS BRIDGE VETH ADDRESS PREFIX GATEWAY [nft]   ends when the deletion of the link is announced
 *   floor wait NETNS BRIDGE VETH ADDRESS PREFIX GATEWAY [nft]   ends when the kernel has destroyed it
 *
 * The operations are those of the plugin bridge with a gateway, in the same order; `nft` adds the masquerade element.
 * It reads no configuration, makes no lease, prints no result, and undoes nothing if it fails.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER 16384

static char message[1024], reply[BUFFER];

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static int netlink_socket(int protocol, unsigned groups)
{
    struct sockaddr_nl local = {.nl_family = AF_NETLINK, .nl_groups = groups};
    int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (sock < 0 || bind(sock, (struct sockaddr *)&local, sizeof local) < 0) {
        die("netlink");
    }
    return sock;
}

/* The message being written. */
static struct nlmsghdr *header;

static void *append(const void *data, size_t length)
{
    char *at = (char *)header + NLMSG_ALIGN(header->nlmsg_len);
    if (data != NULL) {
        memcpy(at, data, length);
    }
    header->nlmsg_len = NLMSG_ALIGN(header->nlmsg_len) + (unsigned)length;
    return at;
}

/* Begins a message, after the previous one if `header` is set. */
static void begin(int type, int flags, const void *body, size_t length)
{
    header = header ? (struct nlmsghdr *)((char *)header + NLMSG_ALIGN(header->nlmsg_len)) : (struct nlmsghdr *)message;
    memset(header, 0, 256);
    header->nlmsg_len = NLMSG_HDRLEN;
    header->nlmsg_type = (unsigned short)type;
    header->nlmsg_flags = (unsigned short)(NLM_F_REQUEST | flags);
    append(body, length);
}

static struct nlattr *attribute(int type, const void *data, size_t length)
{
    struct nlattr head = {.nla_len = (unsigned short)(NLA_HDRLEN + length), .nla_type = (unsigned short)type};
    struct nlattr *at = append(&head, sizeof head);
    append(data, length);
    return at;
}

static void text(int type, const char *value)
{
    attribute(type, value, strlen(value) + 1);
}

static void number(int type, int value)
{
    attribute(type, &value, sizeof value);
}

/* Closes a nested attribute that `attribute` opened. */
static void close_nest(struct nlattr *nest)
{
    nest->nla_len = (unsigned short)((char *)header + NLMSG_ALIGN(header->nlmsg_len) - (char *)nest);
}

static void post(int sock, const char *what)
{
    size_t length = (size_t)((char *)header + NLMSG_ALIGN(header->nlmsg_len) - message);
    header = NULL;
    if (send(sock, message, length, 0) < 0) {
        die(what);
    }
}

/* Receives one reply; exits if it is an error. */
static struct nlmsghdr *answer(int sock, const char *what)
{
    struct nlmsghdr *found = (struct nlmsghdr *)reply;
    if (recv(sock, reply, sizeof reply, 0) < (ssize_t)NLMSG_HDRLEN) {
        die(what);
    }
    if (found->nlmsg_type == NLMSG_ERROR && ((struct nlmsgerr *)NLMSG_DATA(found))->error != 0) {
        errno = -((struct nlmsgerr *)NLMSG_DATA(found))->error;
        die(what);
    }
    return found;
}

/* Sends what was written, and receives one reply. */
static struct nlmsghdr *ask(int sock, const char *what)
{
    post(sock, what);
    return answer(sock, what);
}

static int find_link(int sock, const char *name)
{
    struct ifinfomsg link = {0};
    begin(RTM_GETLINK, 0, &link, sizeof link);
    text(IFLA_IFNAME, name);
    return ((struct ifinfomsg *)NLMSG_DATA(ask(sock, name)))->ifi_index;
}

/* All addresses of a link. */
static void read_addresses(int sock, int index)
{
    struct ifaddrmsg body = {.ifa_index = (unsigned)index};
    begin(RTM_GETADDR, NLM_F_DUMP, &body, sizeof body);
    post(sock, "addresses");
    ssize_t length;
    while ((length = recv(sock, reply, sizeof reply, 0)) > 0) {
        for (struct nlmsghdr *at = (struct nlmsghdr *)reply; NLMSG_OK(at, length); at = NLMSG_NEXT(at, length)) {
            if (at->nlmsg_type == NLMSG_DONE) {
                return;
            }
        }
    }
    die("addresses");
}

/* Creates the pair, and stores the indexes of both ends, which the kernel returns. */
static void add_veth(int sock, const char *name, int netns, int *here, int *there)
{
    struct ifinfomsg link = {0};
    begin(RTM_NEWLINK, NLM_F_ACK | NLM_F_ECHO | NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
    text(IFLA_IFNAME, name);
    struct nlattr *info = attribute(IFLA_LINKINFO, NULL, 0);
    text(IFLA_INFO_KIND, "veth");
    struct nlattr *data = attribute(IFLA_INFO_DATA, NULL, 0);
    struct nlattr *peer = attribute(VETH_INFO_PEER, NULL, 0);
    append(&link, sizeof link);
    text(IFLA_IFNAME, "eth0");
    number(IFLA_NET_NS_FD, netns);
    close_nest(peer);
    close_nest(data);
    close_nest(info);
    struct nlmsghdr *shown = ask(sock, "veth");
    struct ifinfomsg *made = NLMSG_DATA(shown);
    *here = made->ifi_index;
    int left = (int)IFLA_PAYLOAD(shown);
    for (struct rtattr *at = IFLA_RTA(made); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        if (at->rta_type == IFLA_LINK) {
            memcpy(there, RTA_DATA(at), sizeof *there);
        }
    }
    answer(sock, "veth");
}

static void set_up(int index)
{
    struct ifinfomsg link = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    begin(RTM_SETLINK, NLM_F_ACK, &link, sizeof link);
}

static void join(int sock, int index, int bridge)
{
    struct ifinfomsg link = {.ifi_index = index};
    begin(RTM_SETLINK, NLM_F_ACK, &link, sizeof link);
    number(IFLA_MASTER, bridge);
    text(IFLA_IFALIAS, "v1:floor pod eth0");
    set_up(index);
    post(sock, "join");
    answer(sock, "join");
    answer(sock, "up");
}

static void announce_itself(int index)
{
    struct ifinfomsg link = {.ifi_index = index};
    begin(RTM_SETLINK, NLM_F_ACK, &link, sizeof link);
    struct nlattr *families = attribute(IFLA_AF_SPEC, NULL, 0);
    struct nlattr *family = attribute(AF_INET, NULL, 0);
    struct nlattr *conf = attribute(IFLA_INET_CONF, NULL, 0);
    number(IPV4_DEVCONF_ARP_NOTIFY, 1);
    close_nest(conf);
    close_nest(family);
    close_nest(families);
}

static void add_address(int index, const char *address, int prefix)
{
    struct ifaddrmsg body = {.ifa_family = AF_INET, .ifa_prefixlen = (unsigned char)prefix, .ifa_index = (unsigned)index};
    struct in_addr packed;
    inet_pton(AF_INET, address, &packed);
    begin(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body, sizeof body);
    attribute(IFA_LOCAL, &packed, sizeof packed);
    attribute(IFA_ADDRESS, &packed, sizeof packed);
}

static void add_route(int index, const char *gateway)
{
    struct rtmsg body = {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT};
    struct in_addr packed;
    body.rtm_type = RTN_UNICAST;
    inet_pton(AF_INET, gateway, &packed);
    begin(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, &body, sizeof body);
    number(RTA_OIF, index);
    attribute(RTA_GATEWAY, &packed, sizeof packed);
}

static void configure(int index, char **words)
{
    int pod = netlink_socket(NETLINK_ROUTE, 0);
    announce_itself(index);
    add_address(index, words[2], atoi(words[3]));
    set_up(index);
    add_route(index, words[4]);
    post(pod, "pod");
    for (int answers = 4; answers > 0; answers--) {
        answer(pod, "pod");
    }
}

/* One transaction that adds or deletes an element; set and table exist. */
static void change_element(int type, int flags, const char *address)
{
    struct nfgenmsg batch = {.res_id = htons(NFNL_SUBSYS_NFTABLES)}, body = {.nfgen_family = NFPROTO_INET};
    struct in_addr packed;
    int sock = netlink_socket(NETLINK_NETFILTER, 0);
    inet_pton(AF_INET, address, &packed);
    begin(NFNL_MSG_BATCH_BEGIN, 0, &batch, sizeof batch);
    begin(NFNL_SUBSYS_NFTABLES << 8 | type, NLM_F_ACK | flags, &body, sizeof body);
    text(NFTA_SET_ELEM_LIST_TABLE, "floor");
    text(NFTA_SET_ELEM_LIST_SET, "pods");
    struct nlattr *list = attribute(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, NULL, 0);
    struct nlattr *element = attribute(NFTA_LIST_ELEM | NLA_F_NESTED, NULL, 0);
    struct nlattr *key = attribute(NFTA_SET_ELEM_KEY | NLA_F_NESTED, NULL, 0);
    attribute(NFTA_DATA_VALUE, &packed, sizeof packed);
    close_nest(key);
    close_nest(element);
    close_nest(list);
    begin(NFNL_MSG_BATCH_END, 0, &batch, sizeof batch);
    ask(sock, "element");
}

static void add(int netns, char **words)
{
    int here = 0, there = 0, own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int host = netlink_socket(NETLINK_ROUTE, 0);
    int bridge = find_link(host, words[0]);
    add_veth(host, words[1], netns, &here, &there);
    join(host, here, bridge);
    if (setns(netns, CLONE_NEWNET) < 0) {
        die("setns");
    }
    configure(there, words);
    if (setns(own, CLONE_NEWNET) < 0) {
        die("setns");
    }
    read_addresses(host, bridge);
    if (words[5]) {
        change_element(NFT_MSG_NEWSETELEM, NLM_F_CREATE, words[2]);
    }
    find_link(host, words[1]);
}

static void delete_link(int sock, int index)
{
    struct ifinfomsg link = {.ifi_index = index};
    begin(RTM_DELLINK, NLM_F_ACK, &link, sizeof link);
    ask(sock, "delete");
}

/* Reads announcements until that of the deletion of a link. */
static void await_announced(int sock, int index)
{
    ssize_t length;
    while ((length = recv(sock, reply, sizeof reply, 0)) > 0) {
        for (struct nlmsghdr *at = (struct nlmsghdr *)reply; NLMSG_OK(at, length); at = NLMSG_NEXT(at, length)) {
            struct ifinfomsg *link = NLMSG_DATA(at);
            /* A bridge announces the removal of a port with the same type. */
            if (at->nlmsg_type == RTM_DELLINK && link->ifi_index == index && link->ifi_family == AF_UNSPEC) {
                return;
            }
        }
    }
    die("announcement");
}

static void delete(char **words, int is_patient)
{
    int host = netlink_socket(NETLINK_ROUTE, 0);
    int index = find_link(host, words[1]);
    if (words[5]) {
        change_element(NFT_MSG_DELSETELEM, 0, words[2]);
    }
    if (is_patient) {
        delete_link(host, index);
        return;
    }
    int announced = netlink_socket(NETLINK_ROUTE, RTMGRP_LINK);
    if (fork() == 0) {
        delete_link(host, index);
        _exit(EXIT_SUCCESS);
    }
    await_announced(announced, index);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        return EXIT_SUCCESS;
    }
    int netns = argc < 8 ? -1 : open(argv[2], O_RDONLY | O_CLOEXEC);
    if (netns < 0) {
        die("netns");
    }
    if (strcmp(argv[1], "add") == 0) {
        add(netns, argv + 3);
    } else {
        delete(argv + 3, strcmp(argv[1], "wait") == 0);
    }
    return EXIT_SUCCESS;
}
