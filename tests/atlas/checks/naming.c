/* Rows of NAM. */
#include "check.h"

int main(void)
{
	struct sockaddr_storage name;
	socklen_t size = sizeof name;
	char path[108];
	int fd = stream();
	const char *bound, *one, *two, *three;

	/* ./././…/x: 108 bytes. */
	for (int at = 0; at < 108; at++)
		path[at] = "./"[at % 2];
	memcpy(path + 106, "x1", 2);
	bound = said(bind_bytes(fd, path, 108));
	listen(fd, 5);
	getsockname(fd, (struct sockaddr *)&name, &size);
	printf("NAM-02 {\"bind\": %s, \"length\": %d, \"name\": %s, \"file\": %s, \"connect\": %s}\n", bound, size,
	       yes(!memcmp(((struct sockaddr_un *)&name)->sun_path, path, 108) &&
		   !((char *)&name)[offsetof(struct sockaddr_un, sun_path) + 108]),
	       yes(!access("x1", F_OK)), said(connect_bytes(stream(), path, 108)));

	int fds[3] = {stream(), stream(), stream()};
	bind_bytes(fds[0], "n1", 2);
	bind_bytes(fds[1], "n2", 3);
	memset(path, 0, sizeof path);
	memcpy(path, "n3", 2);
	bind_bytes(fds[2], path, 108);
	printf("NAM-07 {\"without NUL\": %d, \"with NUL\": %d, \"all of sun_path\": %d}\n", name_length(fds[0]) - 2,
	       name_length(fds[1]) - 2, name_length(fds[2]) - 2);

	server("here", 5);
	one = said(bind_path(stream(), "new/"));
	two = said(bind_path(stream(), "here/"));
	three = said(connect_path(stream(), "here/"));
	printf("NAM-10 {\"nothing there\": %s, \"a socket there\": %s, \"connect\": %s, \"listing\": [%s]}\n", one, two,
	       three, access("new", F_OK) ? "\"here\"" : "\"here\", \"new\"");

	const char *names[][2] = {{"name", "dir"}, {"name/", "dir/"}, {".", "dir/."}, {"..", "dir/.."}, {"/", "/"}};
	mkdir("dir", 0755);
	for (int at = 0; at < 5; at++)
		printf("%s\"%s\": %s", at ? ", " : "NAM-11 {", names[at][0], said(bind_path(stream(), names[at][1])));
	printf("}\n");

	symlink("loop", "loop");
	one = said(bind_path(stream(), "loop/s"));
	two = said(connect_path(stream(), "loop/s"));
	printf("NAM-14 {\"on the way\": [%s, %s], ", one, two);
	one = said(bind_path(stream(), "loop"));
	two = said(connect_path(stream(), "loop"));
	printf("\"last\": [%s, %s]}\n", one, two);
	return 0;
}
