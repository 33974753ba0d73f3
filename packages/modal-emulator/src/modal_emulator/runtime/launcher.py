"""The process that containers are forked from, in namespaces of the kernel.

It is run as a script by `namespaces.py`, isolated from the environment, and imports nothing but the standard library:
starting a container is then two forks and some twenty system calls, a few milliseconds. It lives in a user namespace of
its own and talks to the server over a socket: packets of JSON, with descriptors. When the server is gone, however it
went, the socket closes, this process ends, and the kernel kills the first process of each container with it.

Processes of a container: an `init` of ours (the first of its pid namespace; it collects orphans and passes the exit
status on) and the command. An init that ends takes all others of its namespace with it.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from typing import Any, NoReturn

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
KEEP_ON_REMOUNT = (
    (os.ST_RDONLY, MS_RDONLY),
    (os.ST_NOSUID, MS_NOSUID),
    (os.ST_NODEV, MS_NODEV),
    (os.ST_NOEXEC, MS_NOEXEC),
)

KEYCTL_JOIN_SESSION_KEYRING = 1
SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine)
CAPABILITY_VERSION_3 = 0x20080522

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36

# The same on every architecture: they came after the tables were unified.
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_MOUNT_SETATTR = 442
OPEN_TREE_CLONE = 1
MOUNT_ATTR_RDONLY = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MOVE_MOUNT_F_EMPTY_PATH = 4
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000

# What a container's root user may do within its user namespace. Mounting is not among it, so that what is read-only
# stays so: root may be the host's root by number, for whom /proc/sys is writable.
CAPABILITIES = {
    0,  # chown
    1,  # dac_override
    2,  # dac_read_search
    3,  # fowner
    4,  # fsetid
    5,  # kill
    6,  # setgid
    7,  # setuid
    8,  # setpcap
    10,  # net_bind_service
    18,  # sys_chroot
    19,  # sys_ptrace: only of its own processes, none of which may do more
    27,  # mknod
    29,  # audit_write
    31,  # setfcap
}
LAST_CAPABILITY = 63

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
READ_ONLY_PROC = ("sys", "sysrq-trigger", "irq", "bus", "fs")

libc = ctypes.CDLL(None, use_errno=True)
# ctypes looks a function up at its first call; done before the root directory changes.
for _name in ("mount", "umount2", "unshare", "setns", "pivot_root", "prctl", "capset", "syscall"):
    getattr(libc, _name)


class SetupError(Exception):
    """A step of the start of a container failed."""


def check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def mount(source: str, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    check(
        libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            None if kind is None else kind.encode(),
            ctypes.c_ulong(flags),
            None if data is None else os.fsencode(data),
        ),
        f"mount {kind or source} at {target}",
    )


def bind(source: str, target: str, *, read_only: bool, recursive: bool = False) -> None:
    mount(source, target, None, MS_BIND | (MS_REC if recursive else 0))
    if read_only:
        # Flags that the source has may not be cleared in a user namespace: they are given again.
        have = os.statvfs(target).f_flag
        flags = sum(ms for st, ms in KEEP_ON_REMOUNT if have & st)
        mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def escape(path: str) -> str:
    """A path as a value among overlayfs's options."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def overlay_options(lowers: list[str], upper: str | None, work: str | None) -> dict[str, str]:
    options = {"lowerdir": ":".join(escape(lower) for lower in lowers)}
    if upper and work:
        options |= {"upperdir": escape(upper), "workdir": escape(work)}
    return options


def mount_overlay(
    target: str, lowers: list[str], upper: str | None, work: str | None, *, read_only: bool = False
) -> None:
    options = overlay_options(lowers, upper, work)
    # volatile: nothing is synced, neither on fsync nor on unmounting, which would sync the whole file system.
    text = ",".join(
        ["userxattr", *(["volatile"] if upper else []), *(f"{k}={v}" for k, v in options.items())]
    )
    mount("overlay", target, "overlay", MS_RDONLY if read_only else 0, text)


def beneath(root: str, target: str) -> str:
    """Where `target`, a path in a container, is while its root is still at `root`; links are followed within it."""
    parts = [part for part in target.split("/") if part not in ("", ".")]
    resolved: list[str] = []
    links = 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            resolved = resolved[:-1]
            continue
        here = os.path.join(root, *resolved, part)
        try:
            link = os.readlink(here)
        except OSError:
            resolved.append(part)
            continue
        links += 1
        if links > 40:
            raise OSError(errno.ELOOP, f"too many links in {target}")
        if link.startswith("/"):
            resolved = []
        parts = [piece for piece in link.split("/") if piece not in ("", ".")] + parts
    return os.path.join(root, *resolved)


def make_target(root: str, target: str, *, directory: bool) -> str:
    """A directory or file at `target` to mount on."""
    path = beneath(root, target)
    if directory:
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.lexists(path):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    return path


def set_up_root(spec: dict[str, Any]) -> str:
    """Mount what a container sees; returns where."""
    root: str = spec["root"]
    os.chdir(spec["layers"])  # short relative paths: the options of a mount must fit into a page
    for top, lowers in spec["tops"].items():
        upper = f"{spec['upper']}/{top}"
        work = f"{spec['work']}/{top}"
        for folder in (upper, work):
            os.makedirs(folder, exist_ok=True)
        target = root
        if top != "root":
            target = f"{root}/{top}"
            os.makedirs(target, exist_ok=True)
        mount_overlay(target, lowers, upper, work)

    for folder in ("proc", "dev", "sys", "tmp", "root"):
        if not os.path.isdir(f"{root}/{folder}"):
            os.mkdir(f"{root}/{folder}", 0o1777 if folder == "tmp" else 0o755)
            os.chmod(f"{root}/{folder}", 0o1777 if folder == "tmp" else 0o755)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in READ_ONLY_PROC:
        path = f"{root}/proc/{name}"
        if os.path.exists(path):
            bind(path, path, read_only=True)
    dev = f"{root}/dev"
    mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755,size=1m")
    for name in DEVICES:
        if os.path.exists(f"/dev/{name}"):
            os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
            # It can be written to all the same. But its owner, who may be root here too, could change its mode.
            bind(f"/dev/{name}", f"{dev}/{name}", read_only=True)
    for name, link in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(link, f"{dev}/{name}")
    os.mkdir(f"{dev}/shm")
    mount("shm", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    os.mkdir(f"{dev}/pts")
    with contextlib.suppress(
        OSError
    ):  # an old kernel may not allow it; programs without terminals do not mind
        mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
        os.symlink("pts/ptmx", f"{dev}/ptmx")

    if os.path.isdir("/sys/devices/system"):  # numbers of processors and such
        os.makedirs(f"{root}/sys/devices/system", exist_ok=True)
        bind("/sys/devices/system", f"{root}/sys/devices/system", read_only=True)

    for each in spec["binds"]:
        source, target = each["source"], each["target"]
        where = make_target(root, target, directory=os.path.isdir(source))
        try:
            bind(source, where, read_only=each["read_only"])
        except OSError as exc:
            raise SetupError(f"{source} cannot be mounted at {target}: {exc}") from exc
    for each in spec["overlays"]:
        where = make_target(root, each["target"], directory=True)
        writable = not each["read_only"]
        if writable:
            mount_overlay(where, [each["lower"]], each["upper"], each["work"])
        else:
            bind(each["lower"], where, read_only=True)
    return root


def enter_root(root: str) -> None:
    os.chdir(root)
    # The old root is stacked above the new one and taken off: no folder for it is needed.
    check(libc.pivot_root(b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up what is not in `CAPABILITIES`, also for what is executed later.

    The first process of a container does, too: root there may trace it, and would have what it has.
    """
    for capability in range(LAST_CAPABILITY + 1):
        if capability not in CAPABILITIES:
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # EINVAL for what the kernel does not have
    mask = sum(1 << capability for capability in CAPABILITIES)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    check(libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)), "capset")


def close_all_but(keep: set[int]) -> None:
    low = 3
    for number in sorted(keep):
        if number >= low:
            os.closerange(low, number)
            low = number + 1
    os.closerange(low, 65536)


def run_command(spec: dict[str, Any], out: int, err: int, setup: int) -> NoReturn:
    """Become the command of a container."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    close_all_but({setup})
    os.umask(0o022)
    # Python ignores these; a command starts with what it would have from a shell.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        os.chdir(spec["workdir"])
    except OSError:
        os.makedirs(spec["workdir"], exist_ok=True)
        os.chdir(spec["workdir"])
    command, env = spec["command"], spec["env"]
    try:
        if "/" in command[0]:
            os.execve(command[0], command, env)
        failure = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        for folder in env.get("PATH", os.defpath).split(":"):
            try:
                os.execve(f"{folder or '.'}/{command[0]}", command, env)
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                    failure = exc  # type: ignore[assignment]
        raise failure
    except OSError as exc:
        # What a shell would say and return.
        missing = exc.errno == errno.ENOENT
        os.write(2, f"{command[0]}: {os.strerror(exc.errno or 0)}\n".encode())
        os._exit(127 if missing else 126)


def init(spec: dict[str, Any], fds: dict[str, int]) -> NoReturn:
    """The first process of a container."""
    setup = fds["setup"]
    try:
        # Only now is the launcher the parent, and not the process between that made the namespaces.
        if os.read(fds["go"], 1) != b"g":
            os._exit(1)
        # Without a namespace the kernel does not kill the rest with this process: it does that itself.
        signal.signal(signal.SIGUSR1, end_of_launcher)
        last_signal = signal.SIGKILL if spec["namespaces"] else signal.SIGUSR1
        check(libc.prctl(PR_SET_PDEATHSIG, int(last_signal), 0, 0, 0), "prctl")
        # The launcher closes it now, and waits for `setup`: had it ended before, its parent is another.
        os.read(fds["go"], 1)
        if not spec["namespaces"] and os.getppid() != spec["launcher"]:
            os._exit(1)
        os.setsid()
        for number in fds["cgroups"]:  # type: ignore[attr-defined]
            os.write(number, b"0")
        if spec["cpus"]:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, spec["cpus"])
        if spec["namespaces"]:
            socket.sethostname(spec["hostname"])
            enter_root(set_up_root(spec))
            drop_capabilities()
        else:
            check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
        command = os.fork()
        if command == 0:
            if not spec["namespaces"]:
                libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            run_command(spec, fds["out"], fds["err"], setup)
    except BaseException as exc:
        text = f"{exc}" if isinstance(exc, (OSError, SetupError)) else traceback.format_exc()
        with contextlib.suppress(OSError):
            os.write(setup, text.encode(errors="replace")[:3000] or b"?")
        os._exit(125)
    status = fds["status"]
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    close_all_but({status})

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(command, number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    while True:
        pid, code = os.wait()
        if pid == command:
            os.write(status, str(code).encode())
            if not spec["namespaces"]:
                kill_descendants()
            os._exit(0)


def end_of_launcher(*_: object) -> None:
    kill_descendants()
    os._exit(1)


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file,
            ):
                found.extend(int(word) for word in file.read().split())
    return found


def kill_descendants() -> None:
    """Kill all that came of this process. It is their subreaper: the children of those killed become its own."""
    while children := children_of(os.getpid()):
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.wait()


class Launcher:
    def __init__(self, control: socket.socket, namespaces: bool) -> None:
        self.control = control
        self.namespaces = namespaces
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)
        self.wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(wake_write, False)
        self.poll.register(self.wake, select.POLLIN)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.setups: dict[int, tuple[int, int]] = {}  # descriptor -> container, pid
        self.running: dict[int, tuple[int, int]] = {}  # pid -> container, descriptor of its status
        self.pids: dict[int, int] = {}  # container -> pid

    def send(self, **message: object) -> None:
        self.control.send(json.dumps(message).encode())

    def serve(self) -> NoReturn:
        while True:
            for number, _ in self.poll.poll():
                if number == self.control.fileno():
                    self.receive()
                elif number == self.wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self.wake, 4096)
                    self.reap()
                elif number in self.setups:
                    self.is_set_up(number)

    def receive(self) -> None:
        data, ancillary, _, _ = self.control.recvmsg(65536, socket.CMSG_SPACE(16 * 4))
        if not data:
            if not self.namespaces:
                kill_descendants()
            os._exit(0)  # the server is gone: the kernel kills the containers
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        message = json.loads(data)
        match message["op"]:
            case "start":
                self.start(message["id"], list(fds))
            case "signal":
                pid = self.pids.get(message["id"])
                if pid is not None:
                    number = int(message["signal"])
                    if number == signal.SIGKILL and not self.namespaces:
                        number = signal.SIGUSR1  # its init kills the rest, and ends
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            case "remount":
                self.remount(message)

    def start(self, container: int, fds: list[int]) -> None:
        """Fork a container: by way of a process that makes the namespaces and ends, so that its child becomes ours."""
        described, out, err, *cgroups = fds
        try:
            with os.fdopen(described, "rb") as file:
                spec = json.load(file)
            go_read, go_write = os.pipe2(os.O_CLOEXEC)
            pid_read, pid_write = os.pipe2(os.O_CLOEXEC)
            setup_read, setup_write = os.pipe2(os.O_CLOEXEC)
            status_read, status_write = os.pipe2(os.O_CLOEXEC)
            spec["namespaces"] = self.namespaces
            spec["launcher"] = os.getpid()
            middle = os.fork()
            if middle == 0:
                try:
                    if self.namespaces:
                        check(
                            libc.unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS), "unshare"
                        )
                    pid = os.fork()
                    if pid == 0:
                        signal.set_wakeup_fd(-1)
                        os.close(go_write)
                        all_fds: dict[str, Any] = {"out": out, "err": err, "setup": setup_write}
                        init(spec, all_fds | {"go": go_read, "status": status_write, "cgroups": cgroups})
                    os.write(pid_write, str(pid).encode())
                except BaseException as exc:
                    os.write(setup_write, str(exc).encode() or b"?")
                os._exit(0)
            for number in (go_read, pid_write, setup_write, status_write, out, err, *cgroups):
                os.close(number)
            # Its parent must be this process before it asks to be killed with its parent.
            os.waitpid(middle, 0)
            pid_text = os.read(pid_read, 32)
            os.close(pid_read)
            pid = int(pid_text or 0)
            if pid:
                self.running[pid] = (container, status_read)
                self.pids[container] = pid
            else:
                os.close(status_read)
            self.setups[setup_read] = (container, pid)
            self.poll.register(setup_read, select.POLLIN)
            os.write(go_write, b"g")
            os.close(go_write)
        except Exception as exc:
            self.send(event="failed", id=container, error=str(exc))

    def is_set_up(self, number: int) -> None:
        container, pid = self.setups.pop(number)
        self.poll.unregister(number)
        text = os.read(number, 4096)
        os.close(number)
        if text:
            self.send(event="failed", id=container, error=text.decode(errors="replace"))
        else:
            self.send(event="started", id=container, pid=pid)

    def reap(self) -> None:
        while True:
            try:
                pid, code = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                break
            if pid in self.running:
                container, status = self.running.pop(pid)
                self.pids.pop(container, None)
                text = os.read(status, 32)
                os.close(status)
                for number, (of, _) in list(self.setups.items()):
                    if of == container:
                        self.is_set_up(number)
                # An init that was killed has not said how the command ended: it was killed with it. And what is in the
                # pipe may be from the container, whose root can write to it.
                code = int(text) if text.isdigit() and len(text) < 8 else int(signal.SIGKILL)
                if not (os.WIFEXITED(code) or os.WIFSIGNALED(code)):
                    code = int(signal.SIGKILL)
                self.send(event="ended", id=container, status=os.waitstatus_to_exitcode(code))
        if not self.namespaces:
            for child in children_of(os.getpid()):
                if child not in self.running:  # left by an init that was killed
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)

    def remount(self, message: dict[str, Any]) -> None:
        """Put an overlay in the place of another in a container's mount namespace."""
        call = message["call"]
        pid = self.pids.get(message["id"])
        child = 0
        if pid is not None:
            child = os.fork()
            if child == 0:
                code = 0
                try:
                    remount(pid, message)
                except OSError as exc:
                    code = exc.errno or errno.EIO
                except BaseException:
                    code = errno.EIO
                os._exit(code)
        code = errno.ESRCH if pid is None else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self.send(event="remounted", call=call, error=code if code >= 0 else errno.EIO)


def remount(pid: int, message: dict[str, Any]) -> None:
    # Made here, where the paths mean something, and moved there as an object.
    if message["read_only"]:
        mounted = check(
            libc.syscall(SYS_OPEN_TREE, AT_FDCWD, os.fsencode(message["lower"]), OPEN_TREE_CLONE), "open_tree"
        )
        attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
        flags = AT_EMPTY_PATH
        check(
            libc.syscall(SYS_MOUNT_SETATTR, mounted, b"", flags, attributes, len(attributes)), "mount_setattr"
        )
    else:
        context = check(libc.syscall(SYS_FSOPEN, b"overlay", 1), "fsopen")
        options = overlay_options([message["lower"]], message["upper"], message["work"])
        for key in ("userxattr", "volatile"):
            check(libc.syscall(SYS_FSCONFIG, context, FSCONFIG_SET_FLAG, key.encode(), None, 0), key)
        for key, value in options.items():
            check(
                libc.syscall(SYS_FSCONFIG, context, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0),
                key,
            )
        check(libc.syscall(SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0), "overlay")
        mounted = check(libc.syscall(SYS_FSMOUNT, context, 1, 0), "fsmount")
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY)
    space = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    check(libc.setns(space, CLONE_NEWNS), "setns")
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")
    target = os.fsencode(beneath("/", message["target"]))
    check(libc.umount2(target, 0), "umount")
    time.sleep(message["absent"])
    check(libc.syscall(SYS_MOVE_MOUNT, mounted, b"", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), "move_mount")


def probe(scratch: str) -> None:
    """Try what containers need; raises what stands against it."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            with open(f"{scratch}/error", encoding="utf-8") as file:
                raise SetupError(file.read())
        return
    try:
        check(libc.unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS), "unshare")
        for folder in ("upper", "work", "root", "layer"):
            os.mkdir(f"{scratch}/{folder}")
        mount_overlay(f"{scratch}/root", [f"{scratch}/layer", "/usr"], f"{scratch}/upper", f"{scratch}/work")
        os.mkdir(f"{scratch}/root/.opaque")
        os.setxattr(f"{scratch}/layer", "user.overlay.opaque", b"y")
        grandchild = os.fork()
        if grandchild == 0:
            try:
                os.mkdir(f"{scratch}/root/proc")
                mount("proc", f"{scratch}/root/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
                os._exit(0)
            except OSError as exc:
                with open(f"{scratch}/error", "w", encoding="utf-8") as file:
                    file.write(str(exc))
                os._exit(1)
        os._exit(1 if os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) else 0)
    except BaseException as exc:
        with open(f"{scratch}/error", "w", encoding="utf-8") as file:
            file.write(str(exc))
        os._exit(1)


def main() -> NoReturn:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    scratch = sys.argv[2]
    uid, gid = os.getuid(), os.getgid()
    launcher = Launcher(control, sys.argv[3] == "namespaces")
    if not launcher.namespaces:
        check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
        launcher.send(event="ready")
        launcher.serve()
    try:
        check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
        if SYS_KEYCTL is not None:  # containers do not inherit the keys of who started the server
            libc.syscall(SYS_KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, None)
        check(libc.unshare(CLONE_NEWUSER), "a user namespace")
        # The server may be allowed to map all ids, and we never are: it tries first.
        launcher.send(event="unshared")
        if control.recv(64) != b"mapped":
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                    file.write(text)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        check(libc.unshare(CLONE_NEWNS), "a mount namespace")
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        probe(scratch)
    except Exception as exc:
        launcher.send(event="unavailable", error=str(exc))
        os._exit(1)
    launcher.send(event="ready")
    launcher.serve()


if __name__ == "__main__":
    main()
