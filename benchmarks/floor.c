// The floor: what a fan-out costs when nothing is done but one send() of one encoded frame per delivery.
//
//   cc -O2 -o floor floor.c -lcrypto
//   floor PORT STORE_PORT      serves /ws/TOPIC; hears the announcements of pw:{bench:*}
//
// No auth, no TLS, no heartbeats, no backpressure, no state: not a server to use, a number to divide by.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define SOCKETS 65536
#define TOPICS 20000

static const char SNAPSHOT[] = "{\"t\":0}";

struct topic {
    int *fds;
    int count, room;
};

static struct topic topics[TOPICS];
static int topic_of[SOCKETS], place_of[SOCKETS]; // topic + 1; 0 before the handshake
static int epoll_fd;
static char heard[1 << 22];
static size_t heard_bytes;

static size_t encode(uint8_t *out, const char *payload, size_t bytes) {
    size_t head = 0;
    out[head++] = 0x81;
    if (bytes < 126) {
        out[head++] = bytes;
    } else {
        out[head++] = 126;
        out[head++] = bytes >> 8;
        out[head++] = bytes;
    }
    memcpy(out + head, payload, bytes);
    return head + bytes;
}

static void fan_out(int topic, const char *payload, size_t bytes) {
    static uint8_t frame[1 << 17];
    size_t size = encode(frame, payload, bytes);
    for (int i = 0; i < topics[topic].count; i++)
        if (send(topics[topic].fds[i], frame, size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)size)
            fprintf(stderr, "a delivery was lost\n");
}

static void subscribe(int fd, int topic) {
    struct topic *t = &topics[topic];
    if (t->count == t->room)
        t->fds = realloc(t->fds, (t->room = t->room ? 2 * t->room : 2) * sizeof *t->fds);
    place_of[fd] = t->count;
    t->fds[t->count++] = fd;
    topic_of[fd] = topic + 1;
}

static void drop(int fd) {
    if (topic_of[fd]) {
        struct topic *t = &topics[topic_of[fd] - 1];
        int last = t->fds[--t->count];
        t->fds[place_of[fd]] = last;
        place_of[last] = place_of[fd];
    }
    topic_of[fd] = 0;
    close(fd);
}

// Reads one bulk string at *at; returns its text, or NULL while it is incomplete.
static char *bulk(char **at, size_t *bytes) {
    char *end = heard + heard_bytes, *line = memmem(*at, end - *at, "\r\n", 2);
    if (!line)
        return NULL;
    *bytes = strtoul(*at + 1, NULL, 10);
    if (**at == ':') { // an integer: the confirmation's count
        *at = line + 2;
        return line;
    }
    if ((size_t)(end - line) < *bytes + 4)
        return NULL;
    *at = line + 4 + *bytes;
    return line + 2;
}

static void hear(void) {
    size_t used = 0;
    while (used < heard_bytes) {
        char *at = heard + used, *parts[8];
        size_t sizes[8];
        char *line = memmem(at, heard_bytes - used, "\r\n", 2);
        if (!line)
            break;
        int count = atoi(at + 1), i = 0;
        for (at = line + 2; i < count; i++)
            if (at >= heard + heard_bytes || !(parts[i] = bulk(&at, &sizes[i])))
                break;
        if (i < count)
            break;
        if (count == 4) { // pmessage, pattern, channel pw:{bench:N}, "... \n state"
            char *state = memchr(parts[3], '\n', sizes[3]);
            int topic = atoi(parts[2] + 10);
            if (state && topic >= 0 && topic < TOPICS)
                fan_out(topic, state + 1, parts[3] + sizes[3] - state - 1);
        }
        used = at - heard;
    }
    memmove(heard, heard + used, heard_bytes -= used);
}

static void handshake(int fd, char *head) {
    int topic = 0;
    char *key = strcasestr(head, "sec-websocket-key: ");
    if (!key || sscanf(head, "GET /ws/%d", &topic) != 1 || topic < 0 || topic >= TOPICS) {
        drop(fd);
        return;
    }
    char text[128], accept[64];
    unsigned char digest[20];
    int bytes = snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key + 19);
    SHA1((void *)text, bytes, digest);
    EVP_EncodeBlock((void *)accept, digest, 20);
    uint8_t out[512];
    int size = snprintf((char *)out, sizeof out,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Accept: %s\r\n\r\n",
                        accept);
    size += encode(out + size, SNAPSHOT, sizeof SNAPSHOT - 1);
    send(fd, out, size, MSG_NOSIGNAL);
    subscribe(fd, topic);
}

static void watch(int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

int main(int count, char **arguments) {
    if (count != 3)
        return 2;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), store = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[2]))};
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(store, (void *)&where, sizeof where) < 0) {
        perror("store");
        return 1;
    }
    static const char SUBSCRIBE[] = "PSUBSCRIBE pw:{bench:*\r\n";
    send(store, SUBSCRIBE, sizeof SUBSCRIBE - 1, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    where.sin_port = htons(atoi(arguments[1]));
    if (bind(listener, (void *)&where, sizeof where) < 0 || listen(listener, 4096) < 0) {
        perror("listen");
        return 1;
    }
    epoll_fd = epoll_create1(0);
    watch(listener);
    watch(store);
    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                for (int peer; (peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    topic_of[peer] = 0;
                    watch(peer);
                }
            } else if (fd == store) {
                ssize_t got = recv(store, heard + heard_bytes, sizeof heard - heard_bytes, MSG_DONTWAIT);
                if (got == 0)
                    return 0;
                if (got > 0) {
                    heard_bytes += got;
                    hear();
                }
            } else {
                char data[4096];
                ssize_t got = recv(fd, data, sizeof data - 1, MSG_DONTWAIT);
                if (got <= 0) {
                    if (got == 0 || errno != EAGAIN)
                        drop(fd);
                } else if (!topic_of[fd]) {
                    data[got] = 0;
                    handshake(fd, data);
                }
            }
        }
    }
}
