/* Rows of FSK. For root. */
#include "plain.h"
#include <sys/mount.h>
#include <sys/vfs.h>

static void overlay(const char *top)
{
	char options[200];
	mkdir(top, 0700);
	need(mount("none", top, "tmpfs", 0, NULL), "tmpfs");
	need(chdir(top), top);
	mkdir("l", 0700);
	mkdir("u", 0700);
	mkdir("w", 0700);
	mkdir("m", 0700);
	strcpy(options, "lowerdir=l,upperdir=u,workdir=w");
	if (!strcmp(top, "below"))
		serve("l/s");
	need(mount("none", "m", "overlay", 0, options), "overlay");
	if (strcmp(top, "below"))
		serve("m/s");
}

static const char *magic(int fd)
{
	struct statfs info;
	fstatfs(fd, &info);
	return info.f_type == 0x534F434B ? "sockfs" : "another";
}

int main(void)
{
	int other = fresh(), bound = fresh();
	FILE *file;

	need(unshare(CLONE_NEWNS), "unshare");
	need(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
	overlay("written");
	printf("FSK-03 {\"merged\": \"%s\", ", connects("m/s"));
	printf("\"upper\": \"%s\"}\n", connects("u/s"));
	chdir("..");
	overlay("below");
	printf("FSK-04 {\"lower\": \"%s\", ", connects("l/s"));
	printf("\"merged\": \"%s\", \"seen there\": %s}\n", connects("m/s"), access("m/s", F_OK) ? "false" : "true");
	chdir("..");

	mkdir("few", 0700);
	need(mount("none", "few", "tmpfs", 0, "nr_inodes=3"), "tmpfs");
	file = fopen("few/0", "w");
	printf("FSK-15 {\"last inode\": \"%s\", ", take(fresh(), "few/s"));
	printf("\"none left\": \"%s\", \"no file\": ", take(other, "few/t"));
	printf("%s, ", access("few/t", F_OK) ? "true" : "false");
	fclose(file);
	unlink("few/0");
	printf("\"one again\": \"%s\"}\n", take(other, "few/t"));

	mkdir("held", 0700);
	need(mount("none", "held", "tmpfs", 0, NULL), "tmpfs");
	take(bound, "held/s");
	printf("FSK-17 {\"bound\": \"%s\", ", outcome(umount("held")));
	unlink("held/s");
	printf("\"file removed\": \"%s\", ", outcome(umount("held")));
	close(bound);
	printf("\"closed\": \"%s\"}\n", outcome(umount("held")));
	printf("FSK-19 [\"%s\", \"%s\"]\n", magic(fresh()), magic(other));
	return 0;
}
