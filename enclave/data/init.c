/* SPDX-License-Identifier: Apache-2.0
 *
 * The first program of an enclave image: opens the root file system through dm-verity and gives way to the boot agent.
 *
 * The root hash and the number of data blocks come from the kernel command line, which the firmware measures; nothing
 * that the host writes on a disk is parsed before the kernel has checked it against that hash. x86-64, no C library.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

enum {
    SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_close = 3, SYS_ioctl = 16, SYS_dup = 32, SYS_nanosleep = 35,
    SYS_execve = 59, SYS_exit = 60, SYS_chdir = 80, SYS_mkdir = 83, SYS_unlink = 87, SYS_chroot = 161, SYS_mount = 165,
    SYS_finit_module = 313
};
enum { ENODEV = 19, O_RDONLY = 0, O_RDWR = 2, O_CLOEXEC = 02000000 };
enum { MS_RDONLY = 1, MS_NOSUID = 2, MS_NODEV = 4, MS_NOEXEC = 8, MS_MOVE = 8192 };
#define DM_CREATE 0xc138fd03UL /* _IOWR(0xfd, n, struct dm_ioctl), 312 bytes */
#define DM_SUSPEND 0xc138fd06UL
#define DM_TABLE_LOAD 0xc138fd09UL
#define DM_READONLY 1
#define BLOCK 4096
#define MAX_MODULES 99
#define WAIT_STEPS 600 /* of 50 ms: how long the disk may take to appear */
#define SALT "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

struct dm_ioctl {
    u32 version[3], data_size, data_start, target_count;
    int open_count;
    u32 flags, event_nr, padding;
    u64 dev;
    char name[128], uuid[129], data[7];
};
struct dm_target {
    u64 start, length;
    int status;
    u32 next;
    char type[16];
};
static struct {
    struct dm_ioctl head;
    struct dm_target target;
    char params[512];
} dm;

static long call(long number, long a, long b, long c, long d, long e) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

void *memset(void *to, int value, u64 size) {
    for (u64 i = 0; i < size; i++) ((volatile u8 *)to)[i] = (u8)value;
    return to;
}
void *memcpy(void *to, const void *from, u64 size) {
    for (u64 i = 0; i < size; i++) ((volatile u8 *)to)[i] = ((const u8 *)from)[i];
    return to;
}
static u64 length(const char *text) {
    u64 n = 0;
    while (text[n]) n++;
    return n;
}
static int same(const char *one, const char *other, u64 size) {
    for (u64 i = 0; i < size; i++)
        if (one[i] != other[i]) return 0;
    return 1;
}
static char *append(char *to, const char *text) {
    while (*text) *to++ = *text++;
    *to = 0;
    return to;
}
static char *append_number(char *to, u64 value) {
    char digits[24];
    int n = 0;
    do digits[n++] = (char)('0' + value % 10);
    while (value /= 10);
    while (n) *to++ = digits[--n];
    *to = 0;
    return to;
}

static int console = -1;
static void say(const char *what, const char *which, long error) {
    char line[640], *end = append(append(append(line, "sericin init: "), what), which);
    if (error < 0) end = append_number(append(end, ": error "), (u64)-error);
    end = append(end, "\n");
    if (console >= 0) call(SYS_write, console, (long)line, end - line, 0, 0);
}
static void __attribute__((noreturn)) refuse(const char *what, const char *which, long error) {
    say(what, which, error);
    for (;;) call(SYS_exit, 1, 0, 0, 0, 0); /* the kernel panics when its first program ends */
}
static long require(long result, const char *what, const char *which) {
    if (result < 0) refuse(what, which, result);
    return result;
}
static void mount(const char *from, const char *to, const char *type, long flags) {
    call(SYS_mkdir, (long)to, 0755, 0, 0, 0);
    require(call(SYS_mount, (long)from, (long)to, (long)type, flags, 0), "cannot mount ", to);
}
static long read_file(const char *path, char *to, long size) {
    long fd = call(SYS_open, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    if (fd < 0) return fd;
    long got = call(SYS_read, fd, (long)to, size - 1, 0, 0);
    call(SYS_close, fd, 0, 0, 0, 0);
    if (got >= 0) to[got] = 0;
    return got;
}

static void load_modules(void) {
    char path[32];
    for (int i = 0; i < MAX_MODULES; i++) {
        char *end = append(path, i < 10 ? "/modules/0" : "/modules/");
        append(append_number(end, (u64)i), ".ko");
        long fd = call(SYS_open, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
        if (fd < 0) return;
        long result = call(SYS_finit_module, fd, (long)"", 0, 0, 0);
        if (result != -ENODEV) require(result, "cannot load ", path); /* tdx_guest, where there is no TDX */
        call(SYS_close, fd, 0, 0, 0, 0);
        call(SYS_unlink, (long)path, 0, 0, 0, 0); /* its memory is wanted for models */
    }
}

/* Give the value of a word NAME=VALUE that the command line holds exactly once. */
static const char *word(char *line, const char *name, char *to, u64 size) {
    u64 wanted = length(name), found = 0;
    for (char *at = line; *at;) {
        while (*at == ' ' || *at == '\n') at++;
        char *end = at;
        while (*end && *end != ' ' && *end != '\n') end++;
        u64 n = (u64)(end - at);
        if (n >= wanted && same(at, name, wanted)) {
            n -= wanted;
            if (found++ || !n || n >= size) refuse("the command line has no single ", name, 0);
            memcpy(to, at + wanted, n);
            to[n] = 0;
        }
        at = end;
    }
    if (!found) refuse("the command line has no single ", name, 0);
    return to;
}

/* Give the path of the disk with this serial. */
static void find_disk(const char *wanted, char *path) {
    char file[] = "/sys/block/vda/serial", serial[32];
    u64 size = length(wanted);
    struct { long seconds, nanoseconds; } pause = {0, 50000000};
    for (int step = 0; step < WAIT_STEPS; step++) {
        for (char letter = 'a'; letter <= 'z'; letter++) {
            file[13] = letter;
            if (read_file(file, serial, sizeof serial) == (long)size && same(serial, wanted, size)) {
                append(path, "/dev/vda");
                path[7] = letter;
                return;
            }
        }
        call(SYS_nanosleep, (long)&pause, 0, 0, 0, 0);
    }
    refuse("no disk has the serial ", wanted, 0);
}

static void dm_call(long control, u64 request, const char *what) {
    dm.head.version[0] = 4;
    dm.head.data_size = sizeof dm;
    dm.head.data_start = sizeof dm.head;
    append(dm.head.name, "root");
    require(call(SYS_ioctl, control, (long)request, (long)&dm, 0, 0), "dm-verity: ", what);
}

/* Give the path of a dm-verity device over `data`, whose hash tree is `tree`. */
static void open_verity(const char *data, const char *tree, const char *root, u64 blocks, char *path) {
    long control = require(call(SYS_open, (long)"/dev/mapper/control", O_RDWR | O_CLOEXEC, 0, 0, 0),
                           "cannot open ", "/dev/mapper/control");
    dm_call(control, DM_CREATE, "cannot create");
    u64 minor = (dm.head.dev & 0xff) | (dm.head.dev >> 12 & ~0xffUL);
    memset(&dm, 0, sizeof dm);
    dm.head.flags = DM_READONLY;
    dm.head.target_count = 1;
    dm.target.length = blocks * (BLOCK / 512);
    append(dm.target.type, "verity");
    char *end = append(append(append(append(append(dm.params, "1 "), data), " "), tree), " 4096 4096 ");
    end = append(append_number(end, blocks), " 0 sha256 ");
    append(append(append(end, root), " " SALT), " 1 panic_on_corruption");
    dm_call(control, DM_TABLE_LOAD, "cannot load the table");
    memset(&dm, 0, sizeof dm);
    dm_call(control, DM_SUSPEND, "cannot start");
    call(SYS_close, control, 0, 0, 0, 0);
    append_number(append(path, "/dev/dm-"), minor);
}

static void __attribute__((noreturn, used)) start(void) {
    static char line[4096], root[65], number[20], data[16], tree[16], device[32];
    mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC);
    console = (int)call(SYS_open, (long)"/dev/console", O_RDWR, 0, 0, 0);
    for (int i = 0; console == 0 && i < 2; i++) call(SYS_dup, 0, 0, 0, 0, 0); /* the agent's input and outputs */
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC);
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC);
    require(read_file("/proc/cmdline", line, sizeof line), "cannot read ", "/proc/cmdline");
    if (length(word(line, "roothash=", root, sizeof root)) != 64) refuse("the root hash has not 64 digits", "", 0);
    u64 blocks = 0;
    for (const char *at = word(line, "rootblocks=", number, 11); *at; at++) {
        if (*at < '0' || *at > '9') refuse("not a number: rootblocks=", number, 0);
        blocks = blocks * 10 + (u64)(*at - '0');
    }
    load_modules();
    find_disk("rootfs", data);
    find_disk("verity", tree);
    say("root hash ", root, 0);
    open_verity(data, tree, root, blocks, device);
    mount(device, "/root", "erofs", MS_RDONLY | MS_NOSUID | MS_NODEV);
    require(call(SYS_mount, (long)"/dev", (long)"/root/dev", 0, MS_MOVE, 0), "cannot move ", "/dev");
    require(call(SYS_mount, (long)"/proc", (long)"/root/proc", 0, MS_MOVE, 0), "cannot move ", "/proc");
    require(call(SYS_mount, (long)"/sys", (long)"/root/sys", 0, MS_MOVE, 0), "cannot move ", "/sys");
    require(call(SYS_chdir, (long)"/root", 0, 0, 0, 0), "cannot enter ", "/root");
    require(call(SYS_mount, (long)".", (long)"/", 0, MS_MOVE, 0), "cannot move ", "/root");
    require(call(SYS_chroot, (long)".", 0, 0, 0, 0), "cannot enter ", "the root file system");
    static char *const arguments[] = {"/usr/bin/python3.11", "-I", "-B", "-m", "enclave.agent", 0};
    static char *const environment[] = {"PATH=/usr/bin", "HOME=/run", "LANG=C.UTF-8", 0};
    refuse("cannot start ", arguments[0], call(SYS_execve, (long)arguments[0], (long)arguments, (long)environment, 0, 0));
}

__asm__(".globl _start\n_start: xor %ebp, %ebp\n and $-16, %rsp\n call start\n");
