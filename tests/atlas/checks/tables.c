/* Rows of DIA. */
#include "plain.h"
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>

static unsigned long inode(int fd)
{
	struct stat info;
	fstat(fd, &info);
	return info.st_ino;
}

/* The line of an inode in /proc/net/unix: its name, or "" for none; of inode 0, that with this name. */
static const char *line(unsigned long wanted, const char *name, char *flags, char *state)
{
	static char found[300];
	char row[400], text[300];
	for (int attempt = 0; attempt < 20; attempt++) {
		FILE *table = fopen("/proc/net/unix", "r");
		while (fgets(row, sizeof row, table)) {
			unsigned long number;
			*text = 0;
			if (sscanf(row, "%*s %*s %*s %8s %*s %2s %lu %299s", flags, state, &number, text) < 3)
				continue;
			if (number == wanted && (!name || !strcmp(name, text))) {
				fclose(table);
				return strcpy(found, text);
			}
		}
		fclose(table);
	}
	return NULL;
}

static void show(const char *what, int fd, const char *end)
{
	char flags[9], state[3];
	line(inode(fd), NULL, flags, state);
	printf("\"%s\": [\"%s\", \"%s\"]%s", what, state, flags, end);
}

/* The name that sock_diag gives, with | for NUL. */
static void name_of(int fd, const char *known, const char *word)
{
	struct {
		struct nlmsghdr header;
		struct unix_diag_req ask;
	} request = {{.nlmsg_len = sizeof request, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
		     {.sdiag_family = AF_UNIX, .udiag_states = -1, .udiag_ino = inode(fd), .udiag_show = UDIAG_SHOW_NAME,
		      .udiag_cookie = {-1, -1}}};
	_Alignas(8) char answer[4096], name[200] = "";
	int netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG);
	send(netlink, &request, sizeof request, 0);
	recv(netlink, answer, sizeof answer, 0);
	struct nlmsghdr *header = (void *)answer;
	struct nlattr *attribute = (void *)((char *)NLMSG_DATA(header) + sizeof(struct unix_diag_msg));
	close(netlink);
	if ((char *)attribute >= answer + header->nlmsg_len || attribute->nla_type != UNIX_DIAG_NAME) {
		printf("null");
		return;
	}
	int length = attribute->nla_len - NLA_HDRLEN;
	memcpy(name, (char *)attribute + NLA_HDRLEN, length);
	for (int each = 0; each < length; each++)
		if (!name[each])
			name[each] = '|';
	char *at = strstr(name, known);
	printf("\"%.*s%s%s\"", (int)(at - name), name, word, at + strlen(known));
}

int main(void)
{
	char flags[9], state[3], link[100], path[100];
	int listener = fresh(), client = fresh(), bound = fresh(), abstract = fresh();

	printf("DIA-05 {");
	show("new", listener, ", ");
	take(listener, "waits");
	show("bound", listener, ", ");
	listen(listener, 1);
	show("listening", listener, ", ");
	reach(client, "waits");
	show("client", client, ", ");
	line(0, "waits", flags, state);
	printf("\"not accepted\": [[\"%s\", \"%s\"]], ", state, flags);
	show("accepted", accept(listener, NULL, NULL), ", ");
	printf("\"not accepted any more\": [%s]}\n", line(0, "waits", flags, state) ? "1" : "");

	take(bound, "rel");
	printf("DIA-06 \"%s\"\n", line(inode(bound), NULL, flags, state));
	int other = serve("PATH");
	printf("DIA-08 {\"before\": \"%s\", ", line(inode(other), NULL, flags, state));
	unlink("PATH");
	printf("\"after\": \"%s\"}\n", line(inode(other), NULL, flags, state));

	sprintf(path, "@udslab-check-%d", getpid());
	take(abstract, path);
	printf("DIA-10 {\"path\": ");
	name_of(bound, "rel", "PATH");
	printf(", \"abstract\": ");
	name_of(abstract, path + 1, "NAME");
	printf(", \"unnamed\": ");
	name_of(client, "", "");
	printf("}\n");

	sprintf(path, "/proc/self/fd/%d", other);
	link[readlink(path, link, sizeof link - 1)] = 0;
	sprintf(path, "socket:[%lu]", inode(other));
	printf("DIA-11 {\"link\": \"%s\", \"name\": \"%s\"}\n", strcmp(link, path) ? link : "socket:[INODE]",
	       line(inode(other), NULL, flags, state));
	return 0;
}
