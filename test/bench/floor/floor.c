// The least that a server can do for a request of EPMD: the system calls and nothing else. It
// looks nothing up and remembers no name. One thread waits on one epoll descriptor.
//
// usage: floor -port PORT    It listens on 127.0.0.1.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static int epfd, listener;
static char registered[1 << 16]; // by descriptor

static void watch(int fd) {
	struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
	epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev);
}

static void finish(int fd) {
	registered[fd] = 0;
	close(fd);
}

// answer answers a whole request as if the name were free, or registered.
static void answer(int fd, const unsigned char *req, ssize_t len) {
	unsigned char out[512] = {0};
	switch (req[2]) {
	case 'x': // ALIVE2_REQ: the connection stays
		out[0] = 118, out[5] = 1;
		send(fd, out, 6, MSG_NOSIGNAL);
		registered[fd] = 1;
		watch(fd);
		return;
	case 'z': // PORT_PLEASE2_REQ: the name comes back
		out[0] = 119, out[10] = 0, out[11] = (len - 3) & 0xff;
		memcpy(out + 12, req + 3, len - 3);
		send(fd, out, 14 + len - 3, MSG_NOSIGNAL | MSG_MORE);
		break;
	default: // NAMES_REQ: no names
		send(fd, out, 4, MSG_NOSIGNAL | MSG_MORE);
	}
	finish(fd);
}

// readable reads a request or the end of a connection.
static void readable(int fd, int fresh) {
	unsigned char req[512];
	ssize_t len = recv(fd, req, 256, MSG_DONTWAIT);
	if (len < 0 && fresh)
		watch(fd); // TCP_DEFER_ACCEPT gave up waiting for the request
	else if (len < 3 || registered[fd])
		finish(fd);
	else
		answer(fd, req, len);
}

static int listen_on(int port) {
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1, off = 0;
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off);
	setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096))
		exit(1);
	return fd;
}

int main(int argc, char **argv) {
	int port = 0;
	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], "-port"))
			port = atoi(argv[i + 1]);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	listener = listen_on(port);
	watch(listener);
	for (;;) {
		struct epoll_event events[128];
		int n = epoll_wait(epfd, events, 128, -1);
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			struct sockaddr_in peer;
			socklen_t size = sizeof peer;
			if (fd != listener)
				readable(fd, 0);
			else if ((fd = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
				readable(fd, 1);
		}
	}
}
