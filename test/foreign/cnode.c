/* A C node, as OTP's guides have it: "cnode NAME@HOST ADDRESS COOKIE" registers, accepts one connection, sends
 * back what it is sent, and unregisters. It says what it does, and ends with 1 when a call fails. */
#include <arpa/inet.h>
#include <ei.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void fail(const char *call)
{
	printf("%s: error %d\n", call, erl_errno);
	exit(1);
}

int main(int argc, char **argv)
{
	char *name = argv[1], alive[256];
	struct sockaddr_in at = {.sin_family = AF_INET};
	socklen_t size = sizeof at;
	ei_cnode node;
	ErlConnect peer;
	erlang_msg msg;
	erlang_pid from;
	ei_x_buff in, out;
	int listener, conn, index = 0, version, arity;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 4)
		return 2;
	strcpy(alive, name);
	*strchr(alive, '@') = 0;
	inet_pton(AF_INET, argv[2], &at.sin_addr);
	ei_init();
	if (ei_connect_xinit(&node, strchr(name, '@') + 1, alive, name, &at.sin_addr, argv[3], 1) < 0)
		fail("ei_connect_xinit");
	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&at, size) || listen(listener, 5) ||
	    getsockname(listener, (struct sockaddr *)&at, &size))
		return 2;
	if (ei_publish(&node, ntohs(at.sin_port)) < 0)
		fail("ei_publish");
	puts("published");
	if ((conn = ei_accept(&node, listener, &peer)) < 0)
		fail("ei_accept");
	printf("accepted %s\n", peer.nodename);
	ei_x_new(&in);
	do
		version = ei_xreceive_msg(conn, &msg, &in);
	while (version == ERL_TICK);
	if (version != ERL_MSG)
		fail("ei_xreceive_msg");
	if (ei_decode_version(in.buff, &index, &version) || ei_decode_tuple_header(in.buff, &index, &arity) ||
	    ei_decode_pid(in.buff, &index, &from))
		fail("ei_decode");
	ei_x_new_with_version(&out);
	ei_x_append_buf(&out, in.buff + index, in.index - index);
	if (ei_send(conn, &from, out.buff, out.index) < 0)
		fail("ei_send");
	puts("answered");
	if (ei_unpublish(&node) < 0)
		fail("ei_unpublish");
	puts("unpublished");
	return 0;
}
