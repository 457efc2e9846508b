/* Rows of LSM. */
#include "plain.h"
#include <sys/prctl.h>
#include <sys/syscall.h>

static char name[100], own[100];

static void restrict_to(uint64_t handled, uint64_t scoped)
{
	uint64_t rules[3] = {handled, 0, scoped};
	int fd = syscall(444, rules, scoped ? 24 : 8, 0);
	need(fd, "landlock_create_ruleset");
	need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	need(syscall(446, fd, 0), "landlock_restrict_self");
}

static void scoped(void)
{
	restrict_to(0, 1);
	serve(own);
	printf("\"abstract, outside\": \"%s\", ", connects(name));
	printf("\"abstract, in the domain\": \"%s\", ", connects(own));
	printf("\"path, outside\": \"%s\"}\n", connects("path"));
}

static void binds(const char *path)
{
	printf("{\"path\": \"%s\", ", take(fresh(), path));
	printf("\"left behind\": %s, ", access(path, F_OK) ? "false" : "true");
	printf("\"abstract\": \"%s\", ", take(fresh(), own));
	printf("\"connect\": \"%s\"}", connects("path"));
}

static void no_sockets(void)
{
	restrict_to(1 << 9, 0);
	binds("first");
}

static void no_files(void)
{
	restrict_to(1 << 8, 0);
	binds("second");
}

int main(void)
{
	sprintf(name, "@udslab-check-%d", getpid());
	sprintf(own, "@udslab-check-%d-own", getpid());
	serve(name);
	serve("path");
	printf("LSM-01 {\"without it\": [\"%s\", ", connects(name));
	printf("\"%s\"], ", connects("path"));
	child(scoped);
	printf("LSM-02 {\"may not make sockets\": ");
	child(no_sockets);
	printf(", \"may not make regular files\": ");
	child(no_files);
	printf("}\nLSM-03 %ld\n", syscall(444, NULL, 0, 1));
	return 0;
}
