// One-process WebSocket load: opens many sockets, publishes, and times what arrives.
//
//   cc -O2 -o load load.c -lz
//   load --port P --sockets N --topics T [--tokens FILE] --store PORT --sha SHA1 --pids PID[,PID] [PHASE...]
//
// Socket i holds topic i % T, or with --first F topic F + i % T. With --tokens it speaks planwire.v1: hello with token i
// of the file (one a line), acks as the gateway advises, pongs. Without, a peer is expected at --path (`%d`: the topic's number), which pushes bare
// states. A publish is one EVALSHA of the commit script; with --lean the HSET and PUBLISH that it amounts to, without
// its checks, so that the store is not what limits; with --http PATH a POST to the server itself.
// With --deflate every socket offers permessage-deflate as browsers do, and inflates what it gets.
// With --look US it looks at its sockets that often in a burst, instead of being woken by each frame: on loopback the
// sender pays for waking the receiver, which a server whose clients are elsewhere does not.
// The state is {"t":NANOSECONDS,"n":COUNT,"pad":"..."}: CLOCK_MONOTONIC when it was published, read back on arrival.
//
// Phases, arguments or else lines of standard input, each followed by one line of JSON on stdout:
//   burst:BYTES:COUNT:WINDOW    at most WINDOW updates not yet delivered everywhere (closed loop)
//   rate:BYTES:PER_S:SECONDS    a clock publishes (open loop)
//   idle:SECONDS                nothing is published
// The clock of a phase stops when every reading socket holds its topic's newest state.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#define PATIENCE_NS 5000000000ull // without any progress a phase is given up and reported as stalled
#define STATE_MAX 65536
#define PUBLISHER UINT32_MAX

enum { CONNECTING, ASKING, OPEN, DEAD };

struct peer {
    int fd;
    int topic;
    uint8_t stage;
    bool ready, deaf;
    uint64_t newest;  // the latest "t" seen
    uint64_t version; // planwire.v1: the latest version seen
    float share;      // planwire.v1: the ack policy in force
    int after_ms;
    bool fresh_context; // permessage-deflate: each message stands for itself
    z_stream *inflater; // permessage-deflate with context: what came before
    uint8_t *kept; // the incomplete tail of what was read
    size_t kept_bytes;
};

struct ack { // one scheduled ack; dropped when something newer was shown by then, as the browser client does
    struct ack *next;
    uint32_t peer;
    uint64_t version;
};

#define WHEEL 4096 // ack_policy's after_ms is at most 2000
static struct ack *wheel[WHEEL];
static uint64_t wheel_ms;

static struct peer *peers;
static int sockets = 1000, topics = 1, port, store_port, deaf = 0, inflight_max = 100, epoll_fd, publisher = -1;
static const char *path = "/ws/%d", *sha, *http_path, *pids = "", *name = "";
static bool planwire, ready_when_open, no_acks, deflate_offered, lean;
static int look_us;
static int first_topic; // number of the first topic
static uint64_t compressed; // frames of the phase that were
static char **tokens;
static int *holders;          // reading sockets per topic
static uint64_t *topic_newest; // the "t" last published per topic
static int started, ready, dead;
static uint64_t delivered, acks_sent, bytes_in, heartbeats, phase_from;
static uint32_t *samples; // microseconds
static size_t samples_n, samples_cap;

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(2);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint32_t random32(void) {
    static uint64_t x = 88172645463325252ull;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x >> 32;
}

// What the server used: nanoseconds on a core and resident KiB, over all threads of all its processes.

static uint64_t server_ns(void) {
    uint64_t sum = 0;
    for (const char *p = pids; *p;) {
        int pid = strtol(p, (char **)&p, 10);
        p += *p == ',';
        char folder[64];
        snprintf(folder, sizeof folder, "/proc/%d/task", pid);
        DIR *tasks = opendir(folder);
        if (!tasks)
            continue;
        for (struct dirent *task; (task = readdir(tasks));) {
            char file[400];
            snprintf(file, sizeof file, "%s/%s/schedstat", folder, task->d_name);
            FILE *stat = task->d_name[0] == '.' ? NULL : fopen(file, "r");
            unsigned long long ns;
            if (stat && fscanf(stat, "%llu", &ns) == 1)
                sum += ns;
            if (stat)
                fclose(stat);
        }
        closedir(tasks);
    }
    return sum;
}

static long server_kib(void) {
    long sum = 0;
    for (const char *p = pids; *p;) {
        int pid = strtol(p, (char **)&p, 10);
        p += *p == ',';
        char file[64];
        snprintf(file, sizeof file, "/proc/%d/statm", pid);
        FILE *statm = fopen(file, "r");
        long total, resident;
        if (statm && fscanf(statm, "%ld %ld", &total, &resident) == 2)
            sum += resident * (sysconf(_SC_PAGESIZE) / 1024);
        if (statm)
            fclose(statm);
    }
    return sum;
}

static double own_cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

// Sending.

static void put(int fd, const void *data, size_t bytes) {
    for (const char *p = data; bytes;) {
        ssize_t sent = send(fd, p, bytes, MSG_NOSIGNAL);
        if (sent < 0) {
            struct pollfd wait = {fd, POLLOUT, 0};
            if (errno != EAGAIN || poll(&wait, 1, 2000) <= 0)
                return;
            continue;
        }
        p += sent;
        bytes -= sent;
    }
}

static void put_frame(int fd, int opcode, const void *payload, size_t bytes) {
    static uint8_t frame[16384];
    size_t head = 0;
    if (bytes > sizeof frame - 16)
        die("a frame of %zu bytes is too long", bytes);
    frame[head++] = 0x80 | opcode;
    if (bytes < 126) {
        frame[head++] = 0x80 | bytes;
    } else {
        frame[head++] = 0x80 | 126;
        frame[head++] = bytes >> 8;
        frame[head++] = bytes;
    }
    memset(frame + head, 0, 4); // a mask of zeros is a mask
    memcpy(frame + head + 4, payload, bytes);
    put(fd, frame, head + 4 + bytes);
}

static void watch(struct peer *peer, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.u32 = peer - peers};
    epoll_ctl(epoll_fd, operation, peer->fd, &event);
}

static void start(struct peer *peer, int index) {
    int one = 1;
    peer->topic = index % topics;
    peer->share = 1;
    peer->deaf = index < deaf;
    peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (peer->fd < 0)
        die("socket: %s; raise ulimit -n", strerror(errno));
    setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(peer->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    struct linger reset = {1, 0}; // leave no TIME_WAIT behind: rounds follow one another
    setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (peer->deaf) {
        int small = 4096;
        setsockopt(peer->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    }
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(0x7f000002 + index / 20000);
    bind(peer->fd, (void *)&from, sizeof from);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(peer->fd, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    peer->stage = CONNECTING;
    watch(peer, EPOLL_CTL_ADD, EPOLLOUT);
}

static void ask(struct peer *peer) {
    char target[256], head[1024];
    snprintf(target, sizeof target, planwire ? "/v1/connect" : path, first_topic + peer->topic);
    int bytes = snprintf(head, sizeof head,
                         "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s%s"
                         "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n"
                         "Origin: http://127.0.0.1:%d\r\n\r\n",
                         target, port, planwire ? "Sec-WebSocket-Protocol: planwire.v1\r\n" : "",
                         deflate_offered ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
                                         : "", port);
    put(peer->fd, head, bytes);
    peer->stage = ASKING;
    watch(peer, EPOLL_CTL_MOD, EPOLLIN);
}

static void bury(struct peer *peer) {
    if (peer->stage == DEAD)
        return;
    if (peer->ready && !peer->deaf)
        holders[peer->topic]--;
    peer->stage = DEAD;
    dead++;
    close(peer->fd);
}

static void mark_ready(struct peer *peer) {
    if (peer->ready)
        return;
    peer->ready = true;
    ready++;
    if (peer->deaf)
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, peer->fd, NULL);
    else
        holders[peer->topic]++;
}

// Receiving.

static uint64_t field(const uint8_t *text, size_t bytes, const char *key, bool *found) {
    const uint8_t *p = memmem(text, bytes, key, strlen(key));
    uint64_t value = 0;
    *found = p != NULL;
    if (p)
        for (p += strlen(key); p < text + bytes && *p >= '0' && *p <= '9'; p++)
            value = value * 10 + *p - '0';
    return value;
}

static void plan_ack(struct peer *peer) {
    if (no_acks || random32() / 4294967296.0 >= peer->share)
        return;
    struct ack *ack = malloc(sizeof *ack);
    uint64_t due = wheel_ms + 1 + random32() % (peer->after_ms + 1);
    *ack = (struct ack){wheel[due % WHEEL], peer - peers, peer->version};
    wheel[due % WHEEL] = ack;
}

static void turn_wheel(void) {
    uint64_t now_ms = now_ns() / 1000000;
    for (; wheel_ms < now_ms; wheel_ms++) {
        struct ack *ack = wheel[wheel_ms % WHEEL];
        wheel[wheel_ms % WHEEL] = NULL;
        while (ack) {
            struct ack *next = ack->next;
            struct peer *peer = &peers[ack->peer];
            if (peer->stage == OPEN && peer->version == ack->version) {
                char text[160];
                int bytes = snprintf(text, sizeof text, "{\"type\":\"ack\",\"topic\":\"bench:%d\",\"version\":%lu}",
                                     first_topic + peer->topic, (unsigned long)ack->version);
                put_frame(peer->fd, 1, text, bytes);
                acks_sent++;
            }
            free(ack);
            ack = next;
        }
    }
}

static void adopt_policy(struct peer *peer, const uint8_t *text, size_t bytes) {
    const uint8_t *share = memmem(text, bytes, "\"share\":", 8);
    bool found;
    if (share)
        peer->share = strtof((const char *)share + 8, NULL);
    uint64_t after = field(text, bytes, "\"after_ms\":", &found);
    if (found)
        peer->after_ms = after < WHEEL - 8 ? after : WHEEL - 8;
}

static void text_frame(struct peer *peer, const uint8_t *text, size_t bytes, uint64_t at) {
    bool has_time, has_version = false;
    uint64_t t = field(text, bytes, "\"t\":", &has_time);
    if (planwire) {
        if (!memcmp(text, "{\"type\":\"heartbeat\"", 19)) {
            heartbeats++;
            return;
        }
        if (!memcmp(text, "{\"type\":\"welcome\"", 17) || !memcmp(text, "{\"type\":\"ack_policy\"", 20)) {
            adopt_policy(peer, text, bytes);
            return;
        }
        if (!memcmp(text, "{\"type\":\"error\"", 15) || !memcmp(text, "{\"type\":\"bye\"", 13))
            die("the gateway says %.*s", (int)bytes, text);
        uint64_t version = field(text, bytes, "\"version\":", &has_version);
        if (has_version && version > peer->version) {
            peer->version = version;
            plan_ack(peer);
        }
    }
    mark_ready(peer);
    if (!has_time)
        return;
    if (t < peer->newest)
        die("socket %ld went back in time", (long)(peer - peers));
    peer->newest = t;
    if (t < phase_from || !phase_from)
        return;
    delivered++;
    if (samples_n == samples_cap)
        samples = realloc(samples, (samples_cap = samples_cap ? 2 * samples_cap : 1 << 20) * sizeof *samples);
    samples[samples_n++] = at > t ? (at - t) / 1000 : 0;
}

// RFC 7692: raw deflate less its last four bytes. Without context the same bytes mean the same text: it is kept.
static size_t inflated(struct peer *peer, const uint8_t *payload, size_t bytes, const uint8_t **text) {
    static uint8_t out[STATE_MAX], in[STATE_MAX + 4], last[STATE_MAX];
    static size_t last_bytes, last_size;
    static z_stream shared;
    *text = out;
    if (peer->fresh_context && bytes == last_bytes && !memcmp(payload, last, bytes))
        return last_size;
    if (bytes > STATE_MAX)
        die("a compressed frame of %zu bytes is too long", bytes);
    z_stream *stream = &shared;
    if (!peer->fresh_context) {
        if (!peer->inflater && inflateInit2(peer->inflater = calloc(1, sizeof *stream), -15) != Z_OK)
            die("no memory to inflate");
        stream = peer->inflater;
    } else if (shared.state ? inflateReset(&shared) : inflateInit2(&shared, -15)) {
        die("no memory to inflate");
    }
    memcpy(in, payload, bytes);
    memcpy(in + bytes, "\0\0\xff\xff", 4);
    stream->next_in = in;
    stream->avail_in = bytes + 4;
    stream->next_out = out;
    stream->avail_out = sizeof out;
    if (inflate(stream, Z_SYNC_FLUSH) != Z_OK || stream->avail_in)
        die("a compressed frame cannot be read");
    last_bytes = 0;
    if (peer->fresh_context) {
        memcpy(last, payload, bytes);
        last_bytes = bytes;
    }
    return last_size = sizeof out - stream->avail_out;
}

static void frame(struct peer *peer, uint8_t first, const uint8_t *payload, size_t bytes, uint64_t at) {
    if (first & 0x40) {
        compressed++;
        bytes = inflated(peer, payload, bytes, &payload);
    }
    switch (first & 15) {
    case 1:
        text_frame(peer, payload, bytes, at);
        break;
    case 8:
        fprintf(stderr, "socket %ld closed: %d %.*s\n", (long)(peer - peers),
                bytes > 1 ? payload[0] << 8 | payload[1] : 0, bytes > 2 ? (int)bytes - 2 : 0, payload + 2);
        bury(peer);
        break;
    case 9:
        put_frame(peer->fd, 10, payload, bytes);
        break;
    }
}

static size_t frames(struct peer *peer, const uint8_t *data, size_t bytes, uint64_t at) {
    size_t used = 0;
    while (bytes - used >= 2 && peer->stage == OPEN && !(peer->deaf && peer->ready)) {
        const uint8_t *p = data + used;
        size_t length = p[1] & 127, head = 2;
        if (length == 126) {
            if (bytes - used < 4)
                break;
            length = p[2] << 8 | p[3];
            head = 4;
        } else if (length == 127) {
            if (bytes - used < 10)
                break;
            length = 0;
            for (int i = 2; i < 10; i++)
                length = length << 8 | p[i];
            head = 10;
        }
        if (bytes - used < head + length)
            break;
        frame(peer, p[0], p + head, length, at);
        used += head + length;
    }
    return used;
}

static size_t answered(struct peer *peer, const uint8_t *data, size_t bytes) {
    const uint8_t *end = memmem(data, bytes, "\r\n\r\n", 4);
    if (!end)
        return 0;
    if (memcmp(data, "HTTP/1.1 101", 12))
        die("handshake refused: %.*s", (int)(bytes < 200 ? bytes : 200), data);
    peer->stage = OPEN;
    peer->fresh_context = memmem(data, end - data, "server_no_context_takeover", 26) != NULL;
    if (planwire) {
        static char hello[9000];
        int length = snprintf(hello, sizeof hello,
                              "{\"type\":\"hello\",\"token\":\"%s\",\"topics\":{\"bench:%d\":0},\"client\":\"load\"}",
                              tokens[peer - peers], first_topic + peer->topic);
        put_frame(peer->fd, 1, hello, length);
    }
    if (ready_when_open)
        mark_ready(peer);
    return end + 4 - data;
}

static void readable(struct peer *peer) {
    static uint8_t data[1 << 20];
    size_t bytes = peer->kept_bytes, used = 0;
    memcpy(data, peer->kept, bytes);
    ssize_t got = recv(peer->fd, data + bytes, sizeof data - bytes, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            bury(peer);
        return;
    }
    uint64_t at = now_ns();
    bytes_in += got;
    bytes += got;
    if (peer->stage == ASKING)
        used = answered(peer, data, bytes);
    if (peer->stage == OPEN)
        used += frames(peer, data + used, bytes - used, at);
    if (peer->stage == DEAD)
        return;
    peer->kept_bytes = bytes - used;
    if (peer->kept_bytes || peer->kept) {
        peer->kept = realloc(peer->kept, peer->kept_bytes + 1);
        memcpy(peer->kept, data + used, peer->kept_bytes);
    }
}

static void publisher_readable(void) {
    char reply[65536];
    ssize_t got = recv(publisher, reply, sizeof reply, MSG_DONTWAIT);
    if (got == 0)
        die("the publisher's connection was closed");
    if (got > 0 && (reply[0] == '-' || !memcmp(reply, "HTTP/1.1 4", got < 10 ? got : 10)))
        die("publish refused: %.*s", (int)(got < 200 ? got : 200), reply);
}

static bool bursting;

static void pump(int wait_ms) {
    struct epoll_event events[512];
    if (look_us && bursting)
        usleep(look_us);
    int count = epoll_wait(epoll_fd, events, 512, wait_ms);
    for (int i = 0; i < count; i++) {
        if (events[i].data.u32 == PUBLISHER) {
            publisher_readable();
            continue;
        }
        struct peer *peer = &peers[events[i].data.u32];
        if (peer->stage == CONNECTING) {
            int error = 0;
            socklen_t size = sizeof error;
            getsockopt(peer->fd, SOL_SOCKET, SO_ERROR, &error, &size);
            if (error)
                die("connect: %s", strerror(error));
            ask(peer);
        } else if (peer->stage != DEAD) {
            readable(peer);
        }
    }
    if (planwire)
        turn_wheel();
}

// Publishing.

static void open_publisher(void) {
    int one = 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(http_path ? port : store_port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    publisher = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(publisher, (void *)&to, sizeof to) < 0)
        die("publisher: %s", strerror(errno));
    setsockopt(publisher, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = PUBLISHER};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, publisher, &event);
}

// What is published in one go leaves in one go.
static char outgoing[1 << 22];
static size_t outgoing_bytes;

static void flush(void) {
    put(publisher, outgoing, outgoing_bytes);
    outgoing_bytes = 0;
}

static size_t argument(char *out, const char *text, size_t bytes) {
    size_t head = sprintf(out, "$%zu\r\n", bytes);
    memcpy(out + head, text, bytes);
    memcpy(out + head + bytes, "\r\n", 2);
    return head + bytes + 2;
}

static void publish(int topic, int size) {
    static uint64_t count;
    static uint64_t version;
    static char state[STATE_MAX], payload[STATE_MAX + 64];
    char text[400], *out = outgoing + outgoing_bytes;
    uint64_t t = now_ns();
    int bytes = sprintf(state, "{\"t\":%lu,\"n\":%lu,\"pad\":\"", (unsigned long)t, (unsigned long)++count);
    while (bytes < size - 2)
        state[bytes++] = "abcdefghijklmnopqrstuvwxyz012345"[random32() & 31];
    state[bytes++] = '"';
    state[bytes++] = '}';
    size_t length;
    if (http_path) {
        char target[256];
        snprintf(target, sizeof target, http_path, first_topic + topic);
        length = sprintf(out, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", target, bytes);
        memcpy(out + length, state, bytes);
        length += bytes;
    } else if (lean) {
        struct timespec clock;
        clock_gettime(CLOCK_REALTIME, &clock);
        uint64_t us = clock.tv_sec * 1000000ull + clock.tv_nsec / 1000;
        version = us > version ? us : version + 1;
        length = sprintf(out, "*6\r\n$4\r\nHSET\r\n");
        length += argument(out + length, text, sprintf(text, "pw:{bench:%d}:snap", first_topic + topic));
        length += argument(out + length, "version", 7);
        length += argument(out + length, text, sprintf(text, "%lu", (unsigned long)version));
        length += argument(out + length, "state", 5);
        length += argument(out + length, state, bytes);
        length += sprintf(out + length, "*3\r\n$7\r\nPUBLISH\r\n");
        length += argument(out + length, text, sprintf(text, "pw:{bench:%d}", first_topic + topic));
        size_t head = sprintf(payload, "%lu 0 0 0\n", (unsigned long)version);
        memcpy(payload + head, state, bytes);
        length += argument(out + length, payload, head + bytes);
    } else {
        length = sprintf(out, "*18\r\n$7\r\nEVALSHA\r\n$40\r\n%s\r\n$1\r\n3\r\n", sha);
        for (int i = 0; i < 3; i++)
            length += argument(out + length, text,
                               sprintf(text, "pw:{bench:%d}:%s", first_topic + topic, i == 0 ? "snap" : i == 1 ? "log" : "seen"));
        length += argument(out + length, "PUBLISH", 7);
        length += argument(out + length, text, sprintf(text, "pw:{bench:%d}", first_topic + topic));
        length += argument(out + length, state, bytes);
        for (int i = 0; i < 6; i++) // private, event_id, order, if_version, cause, patch
            length += argument(out + length, "", 0);
        length += argument(out + length, "publisher", 9);
        for (int i = 0; i < 2; i++) // erased, if_rev
            length += argument(out + length, "", 0);
    }
    topic_newest[topic] = t;
    if ((outgoing_bytes += length) > sizeof outgoing - 4 * STATE_MAX)
        flush();
}

static bool drained(void) {
    for (int i = 0; i < sockets; i++)
        if (peers[i].stage == OPEN && !peers[i].deaf && peers[i].newest < topic_newest[peers[i].topic])
            return false;
    return true;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile_ms(double q) {
    return samples_n ? samples[(size_t)(q * (samples_n - 1))] / 1000.0 : -1;
}

static void run(const char *phase) {
    char kind[16] = "";
    int size = 0;
    double first = 0, second = 0;
    int fields = sscanf(phase, "%15[a-z]:%d:%lf:%lf", kind, &size, &first, &second);
    bool closed = !strcmp(kind, "burst"), idle = !strcmp(kind, "idle"), stalled = false;
    if (idle ? fields != 2 : fields != 4 || (!closed && strcmp(kind, "rate")))
        die("phase %s is not burst:BYTES:COUNT:WINDOW, rate:BYTES:PER_S:SECONDS or idle:SECONDS", phase);
    uint64_t count = closed ? first : idle ? 0 : first * second, published = 0, wanted = 0;
    bursting = closed;
    delivered = acks_sent = compressed = bytes_in = heartbeats = samples_n = 0;
    double own = own_cpu_s();
    uint64_t cpu = server_ns(), from = phase_from = now_ns(), until = idle ? from + size * 1000000000ull : 0;
    uint64_t progress_at = from, progress = 0, now;
    while (true) {
        now = now_ns();
        int wait_ms = 10;
        if (closed) {
            uint64_t allowed = (second - 1) * sockets / topics;
            for (; published < count && wanted - delivered <= allowed; published++) {
                wanted += holders[published % topics];
                publish(published % topics, size);
            }
        } else if (!idle) {
            for (; published < count && now >= from + (uint64_t)(published * 1e9 / first); published++) {
                wanted += holders[published % topics];
                publish(published % topics, size);
            }
            int64_t next_ms = ((int64_t)(from + (uint64_t)(published * 1e9 / first)) - (int64_t)now) / 1000000;
            if (published < count)
                wait_ms = next_ms < 0 ? 0 : next_ms > 10 ? 10 : next_ms;
        }
        flush();
        if (idle ? now >= until : published == count && (delivered >= wanted || drained()))
            break;
        pump(wait_ms);
        if (delivered != progress || idle) {
            progress = delivered;
            progress_at = now_ns();
        } else if (now_ns() - progress_at > PATIENCE_NS) {
            stalled = true;
            break;
        }
    }
    double wall = (now_ns() - from) / 1e9, used = (server_ns() - cpu) / 1e9;
    qsort(samples, samples_n, sizeof *samples, by_size);
    printf("{\"name\":\"%s\",\"phase\":\"%s\",\"sockets\":%d,\"topics\":%d,\"published\":%lu,\"wanted\":%lu,"
           "\"delivered\":%lu,\"stalled\":%s,\"seconds\":%.4f,\"updates_per_s\":%.1f,\"server_cpu_s\":%.6f,"
           "\"us_per_delivery\":%.4f,\"server_load\":%.3f,\"client_load\":%.3f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,"
           "\"max_ms\":%.3f,\"acks\":%lu,\"heartbeats\":%lu,\"compressed\":%lu,\"bytes\":%lu,\"dead\":%d,\"kib\":%ld}\n",
           name, phase, ready - dead, topics, (unsigned long)published, (unsigned long)wanted,
           (unsigned long)delivered, stalled ? "true" : "false", wall, published / wall, used,
           delivered ? used * 1e6 / delivered : -1, used / wall, (own_cpu_s() - own) / wall, quantile_ms(0.5),
           quantile_ms(0.99), quantile_ms(1), (unsigned long)acks_sent, (unsigned long)heartbeats, (unsigned long)compressed,
           (unsigned long)bytes_in, dead, server_kib());
    fflush(stdout);
    bursting = false;
    for (uint64_t until = now_ns() + 100000000ull; now_ns() < until;)
        pump(20);
}

static void open_all(void) {
    long kib = server_kib();
    uint64_t cpu = server_ns(), from = now_ns(), progress_at = from;
    for (int progress = 0; ready + dead < sockets;) {
        for (; started < sockets && started - ready - dead < inflight_max; started++)
            start(&peers[started], started);
        pump(50);
        if (ready != progress) {
            progress = ready;
            progress_at = now_ns();
        } else if (now_ns() - progress_at > PATIENCE_NS) {
            die("only %d of %d sockets became ready", ready, sockets);
        }
    }
    double wall = (now_ns() - from) / 1e9, used = (server_ns() - cpu) / 1e9;
    // What the server frees or settles just after the last connect belongs to it.
    for (uint64_t until = now_ns() + 700000000ull; now_ns() < until;)
        pump(20);
    long after = server_kib();
    printf("{\"name\":\"%s\",\"phase\":\"connect\",\"sockets\":%d,\"dead\":%d,\"seconds\":%.4f,\"connects_per_s\":%.0f,"
           "\"us_per_connect\":%.1f,\"server_load\":%.3f,\"kib_before\":%ld,\"kib\":%ld,\"kib_per_socket\":%.3f}\n",
           name, ready, dead, wall, ready / wall, used * 1e6 / ready, used / wall, kib, after,
           (double)(after - kib) / ready);
    fflush(stdout);
}

// Reads a line of standard input, answering pings meanwhile; false at its end.
static bool next_line(char *line, size_t room) {
    size_t bytes = 0;
    while (bytes + 1 < room) {
        struct pollfd in = {STDIN_FILENO, POLLIN, 0};
        pump(20);
        while (poll(&in, 1, 0) > 0) {
            if (read(STDIN_FILENO, line + bytes, 1) <= 0)
                return false;
            if (line[bytes] == '\n') {
                line[bytes] = 0;
                return true;
            }
            bytes++;
        }
    }
    return false;
}

static void read_tokens(const char *file) {
    FILE *in = fopen(file, "r");
    static char line[8200];
    if (!in)
        die("%s: %s", file, strerror(errno));
    tokens = calloc(sockets, sizeof *tokens);
    for (int i = 0; i < sockets; i++) {
        if (!fgets(line, sizeof line, in))
            die("%s holds fewer tokens than there are sockets", file);
        tokens[i] = strndup(line, strcspn(line, "\n"));
    }
    fclose(in);
    planwire = true;
}

int main(int count, char **arguments) {
    static const struct option options[] = {
        {"port", 1, 0, 'p'},   {"sockets", 1, 0, 'n'}, {"topics", 1, 0, 't'}, {"tokens", 1, 0, 'k'},
        {"store", 1, 0, 's'},  {"sha", 1, 0, 'h'},     {"http", 1, 0, 'H'},   {"path", 1, 0, 'u'},
        {"pids", 1, 0, 'c'},   {"name", 1, 0, 'l'},    {"deaf", 1, 0, 'd'},   {"inflight", 1, 0, 'i'},
        {"fill", 1, 0, 'f'},   {"ready-when-open", 0, 0, 'o'}, {"no-acks", 0, 0, 'a'},
        {"deflate", 0, 0, 'z'}, {"lean", 0, 0, 'L'}, {"look", 1, 0, 'w'}, {"first", 1, 0, 'F'}, {0, 0, 0, 0}};
    const char *token_file = NULL;
    int fill = 0;
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'n': sockets = atoi(optarg); break;
        case 't': topics = atoi(optarg); break;
        case 'k': token_file = optarg; break;
        case 's': store_port = atoi(optarg); break;
        case 'h': sha = optarg; break;
        case 'H': http_path = optarg; break;
        case 'u': path = optarg; break;
        case 'c': pids = optarg; break;
        case 'l': name = optarg; break;
        case 'd': deaf = atoi(optarg); break;
        case 'i': inflight_max = atoi(optarg); break;
        case 'f': fill = atoi(optarg); break;
        case 'o': ready_when_open = true; break;
        case 'a': no_acks = true; break;
        case 'z': deflate_offered = true; break;
        case 'L': lean = true; break;
        case 'w': look_us = atoi(optarg); break;
        case 'F': first_topic = atoi(optarg); break;
        default: return 2;
        }
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    peers = calloc(sockets, sizeof *peers);
    holders = calloc(topics, sizeof *holders);
    topic_newest = calloc(topics, sizeof *topic_newest);
    epoll_fd = epoll_create1(0);
    wheel_ms = now_ns() / 1000000;
    if (token_file)
        read_tokens(token_file);
    if (store_port || http_path)
        open_publisher();
    for (int i = 0; fill && i < topics; i++) {
        publish(i, fill);
        flush();
        if (i % 100 == 99)
            pump(0);
    }
    for (uint64_t until = now_ns() + 300000000ull; now_ns() < until;)
        pump(20);
    open_all();
    for (int i = optind; i < count; i++)
        run(arguments[i]);
    for (char line[256]; optind == count && next_line(line, sizeof line);)
        run(line);
    return 0;
}
