//! Keeps the process alive when a mapped file is cut.
//!
//! Reading a mapped page that its file no longer covers raises SIGBUS, which kills the process.
//! A handler, installed once, answers faults inside registered mappings: it puts zero pages over
//! everything from the faulting page to the end of the mapping and sets a flag that the owner
//! polls. Faults elsewhere go to whoever handled SIGBUS before.
//!
//! The handler touches only atomics and makes one `mmap` system call: both are safe in a signal.

#[cfg(unix)]
pub(super) use with_signals::Guard;
#[cfg(not(unix))]
pub(super) use without_signals::Guard;

#[cfg(unix)]
mod with_signals {
    use std::io;
    use std::ptr;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// Mapped files at a time, over all checkpoints of the process.
    const MAX_MAPPINGS: usize = 1024;

    /// `Slot::start` of a slot that is free, and of one being filled: no mapping starts there.
    const FREE: usize = 0;
    const CLAIMED: usize = 1;

    struct Slot {
        start: AtomicUsize,
        end: AtomicUsize,
        tripped: AtomicBool,
    }

    static SLOTS: [Slot; MAX_MAPPINGS] = [const {
        Slot {
            start: AtomicUsize::new(FREE),
            end: AtomicUsize::new(0),
            tripped: AtomicBool::new(false),
        }
    }; MAX_MAPPINGS];

    /// Bytes in a page; set before the handler is installed.
    static PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);
    /// The handler before ours (`sa_sigaction`) and its flags; set before ours is installed.
    static PREVIOUS_HANDLER: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
    static PREVIOUS_FLAGS: AtomicUsize = AtomicUsize::new(0);

    /// A registered range of addresses; leaves the registry when dropped.
    pub(in crate::checkpoint) struct Guard {
        slot: &'static Slot,
    }

    impl Guard {
        /// Guards `len` bytes from `start`, which must be a live mapping of a file for as long as
        /// the guard lives.
        pub(in crate::checkpoint) fn new(start: usize, len: usize) -> io::Result<Self> {
            install()?;
            for slot in &SLOTS {
                let claim = slot.start.compare_exchange(
                    FREE,
                    CLAIMED,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                );
                if claim.is_ok() {
                    slot.tripped.store(false, Ordering::Relaxed);
                    slot.end.store(start + len, Ordering::Relaxed);
                    slot.start.store(start, Ordering::Release);
                    return Ok(Self { slot });
                }
            }
            Err(io::Error::other(format!("{MAX_MAPPINGS} files are mapped already")))
        }

        /// Whether a read found the file cut.
        pub(in crate::checkpoint) fn tripped(&self) -> bool {
            self.slot.tripped.load(Ordering::Acquire)
        }
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            self.slot.start.store(FREE, Ordering::Release);
        }
    }

    /// Installs the handler, once in the life of the process.
    fn install() -> io::Result<()> {
        static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
        INSTALLED.get_or_init(try_install).map_err(io::Error::from_raw_os_error)
    }

    fn try_install() -> Result<(), i32> {
        let os_error = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
        // SAFETY: `sysconf` only reads a constant. Both `sigaction` calls get pointers to live
        // structures (or null, which means "do not set" or "do not report"), all-zero being valid
        // for that plain C struct. What the handler reads is stored before it can run.
        unsafe {
            PAGE_SIZE.store(libc::sysconf(libc::_SC_PAGESIZE) as usize, Ordering::Release);
            let mut previous: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, ptr::null(), &mut previous) != 0 {
                return Err(os_error());
            }
            PREVIOUS_HANDLER.store(previous.sa_sigaction, Ordering::Release);
            PREVIOUS_FLAGS.store(previous.sa_flags as usize, Ordering::Release);

            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
            action.sa_sigaction = handler as usize;
            // On the alternate stack where a thread has one, as std's own handler does.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            if libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) != 0 {
                return Err(os_error());
            }
        }
        Ok(())
    }

    extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel passes a valid `info` to a handler installed with SA_SIGINFO.
        let address = unsafe { (*info).si_addr() } as usize;
        if !cover(address) {
            pass_on(signal, info, context);
        }
    }

    /// Puts zero pages over the registered mapping that holds `address`, from that page on.
    /// One call covers the rest, so that a long scan neither faults at each page nor splits the
    /// mapping into more areas than a process may have. `false` when no mapping holds it.
    fn cover(address: usize) -> bool {
        let page = address & !(PAGE_SIZE.load(Ordering::Acquire) - 1);
        for slot in &SLOTS {
            let start = slot.start.load(Ordering::Acquire);
            let end = slot.end.load(Ordering::Acquire);
            // Read again: a slot reused between the two loads would pair a start with another
            // mapping's end.
            let steady = slot.start.load(Ordering::Acquire) == start;
            if start <= CLAIMED || !steady || !(start..end).contains(&address) {
                continue;
            }
            slot.tripped.store(true, Ordering::Release);
            // SAFETY: [page, end) lies inside a live mapping of ours: it starts at a page
            // boundary at or below `page`, and the faulting thread holds it. Read-only anonymous
            // zeros replace read-only file pages at the same addresses, so every reference into
            // them stays readable; munmap of the whole range later removes both. `errno` is put
            // back for the interrupted code.
            let mapped = unsafe {
                let errno = errno_location();
                let saved = *errno;
                let zeros = libc::mmap(
                    page as *mut libc::c_void,
                    end - page,
                    libc::PROT_READ,
                    libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED,
                    -1,
                    0,
                );
                *errno = saved;
                zeros != libc::MAP_FAILED
            };
            return mapped;
        }
        false
    }

    #[cfg(target_os = "linux")]
    fn errno_location() -> *mut i32 {
        // SAFETY: returns the address of the calling thread's errno, no conditions.
        unsafe { libc::__errno_location() }
    }
    #[cfg(target_os = "macos")]
    fn errno_location() -> *mut i32 {
        // SAFETY: returns the address of the calling thread's errno, no conditions.
        unsafe { libc::__error() }
    }

    /// Gives a fault that is not ours to the handler that was there before.
    fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let handler = PREVIOUS_HANDLER.load(Ordering::Acquire);
        let flags = PREVIOUS_FLAGS.load(Ordering::Acquire);
        if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            // SAFETY: restores the default action with a live, zeroed structure; the fault then
            // happens again and ends the process as it would have without us.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &action, ptr::null_mut());
            }
        } else if flags & libc::SA_SIGINFO as usize != 0 {
            // SAFETY: with SA_SIGINFO set, the stored address is a handler of this signature.
            let previous = unsafe {
                std::mem::transmute::<
                    usize,
                    extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void),
                >(handler)
            };
            previous(signal, info, context);
        } else {
            // SAFETY: without SA_SIGINFO, the stored address is a handler of this signature.
            let previous = unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(handler) };
            previous(signal);
        }
    }
}

#[cfg(not(unix))]
mod without_signals {
    /// Nothing to guard: this system does not let a mapped file shrink.
    pub(in crate::checkpoint) struct Guard;

    impl Guard {
        pub(in crate::checkpoint) fn new(_start: usize, _len: usize) -> std::io::Result<Self> {
            Ok(Self)
        }
        pub(in crate::checkpoint) fn tripped(&self) -> bool {
            false
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::ptr;

    use crate::checkpoint::map::Mapping;
    use crate::checkpoint::testing::TempDir;

    const ROLE: &str = "IMP_TEST_SIGBUS";

    /// Faults that are not ours must reach whoever handled SIGBUS before; that can only be seen
    /// from outside the process, so the test runs itself again in two roles.
    #[test]
    fn a_fault_elsewhere_goes_to_the_handler_before() {
        if let Ok(role) = std::env::var(ROLE) {
            fault_elsewhere(&role);
        }
        let name = "checkpoint::sigbus::tests::a_fault_elsewhere_goes_to_the_handler_before";
        for (role, code, signal) in
            [("with a handler", Some(42), None), ("without", None, Some(libc::SIGBUS))]
        {
            let output = Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact", "--nocapture"])
                .env(ROLE, role)
                .output()
                .unwrap();
            let status = output.status;
            assert_eq!((status.code(), status.signal()), (code, signal), "{role}: {output:?}");
        }
    }

    extern "C" fn leave(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: `_exit` ends the process at once and is allowed in a signal handler.
        unsafe { libc::_exit(42) }
    }

    /// Never returns: ends by the handler that was there before ours, or by the signal.
    fn fault_elsewhere(role: &str) -> ! {
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = leave;
        // SAFETY: a live, zeroed structure with either a handler of the signature that
        // SA_SIGINFO asks for or the default action.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if role == "with a handler" {
                action.sa_sigaction = handler as usize;
                action.sa_flags = libc::SA_SIGINFO;
            }
            assert_eq!(libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()), 0);
        }
        let dir = TempDir::new();
        let ours = Mapping::open(&dir.file("ours", &[1; 20_000])).unwrap();
        let path = dir.file("theirs", &[1; 20_000]);
        // SAFETY: the mapping is read once below, where the test wants the fault.
        let theirs = unsafe { memmap2::Mmap::map(&File::open(&path).unwrap()) }.unwrap();
        for path in [&path, &dir.path().join("ours")] {
            File::options().write(true).open(path).unwrap().set_len(0).unwrap();
        }
        drop(dir); // the process ends before it could
        assert_eq!(ours.bytes()[10_000], 0); // answered by our handler
        std::hint::black_box(theirs[10_000]);
        unreachable!("a cut file was read");
    }
}
