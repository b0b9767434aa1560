//! The server being measured: a process of its own on a free port, and what the system says of it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::http;
use crate::TaskError;

/// Longest time to load a model.
const LOADING: Duration = Duration::from_secs(600);
/// Lines that are told of a server which ends.
const LAST_WORDS: usize = 5;

/// A server that is ready. Dropping it ends its process.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts one, and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started or ends, with what it said last.
    pub fn start(program: &Path, model: &Path, arguments: &[String]) -> Result<Self, TaskError> {
        let mut command = Command::new(program);
        command.arg("--model").arg(model).args(["--port", "0"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let failed = |what: String| TaskError::Command { command: "imp-server".into(), what };
        let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
        let stderr = child.stderr.take().expect("it is piped");
        let mut server = Self { child, address: ([127, 0, 0, 1], 0).into() };
        let (address, said) = listen(stderr);
        let last_words = || {
            let lines = said.lock().unwrap_or_else(PoisonError::into_inner);
            lines.iter().fold(String::new(), |text, line| text + "\n  " + line)
        };
        let began = Instant::now();
        while began.elapsed() < LOADING {
            if let Ok(address) = address.try_recv() {
                server.address = address;
            }
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(failed(format!("{status}{}", last_words())));
            }
            if server.address.port() != 0
                && matches!(http::get(server.address, "/ready"), Ok((200, _)))
            {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(failed(format!("was not ready after {} s{}", LOADING.as_secs(), last_words())))
    }

    /// Memory that it has.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn memory(&self) -> Result<Memory, TaskError> {
        let path = self.path("status");
        let status = std::fs::read_to_string(&path);
        let status = status.map_err(|source| TaskError::Io { path: path.clone(), source })?;
        Memory::of(&status).ok_or_else(|| TaskError::Other(format!("{}: no VmRSS", path.display())))
    }

    /// Time that its threads have computed, by their names.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn cpu(&self) -> Result<Cpu, TaskError> {
        let folder = self.path("task");
        let tasks = std::fs::read_dir(&folder)
            .map_err(|source| TaskError::Io { path: folder.clone(), source })?;
        // A thread that ends while it is looked at has no files any more.
        let threads = tasks.flatten().filter_map(|task| {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name)).ok();
            let name = read("comm")?.trim_end().to_owned();
            let time = match read("schedstat").as_deref().and_then(nanoseconds) {
                Some(time) => (time, true),
                None => (ticks(&read("stat")?)?, false),
            };
            Some((name, time))
        });
        let mut cpu = Cpu { exact: true, ..Cpu::default() };
        for (name, (time, exact)) in threads {
            *cpu.threads.entry(name).or_default() += time;
            cpu.exact &= exact;
        }
        Ok(cpu)
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// Bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All that the process has, a mapped model too.
    pub all: u64,
    /// What it allocated.
    pub own: u64,
}

impl Memory {
    /// Of `/proc/<pid>/status`; some systems do not tell what is allocated.
    fn of(status: &str) -> Option<Self> {
        let kib = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.trim().parse().ok()
        };
        let all = kib("VmRSS:")?;
        Some(Self { all: all << 10, own: kib("RssAnon:").unwrap_or(all) << 10 })
    }
}

type Lines = Arc<Mutex<VecDeque<String>>>;

/// Passes on what a server says; finds the address in it, and keeps the last lines.
fn listen(stderr: ChildStderr) -> (mpsc::Receiver<SocketAddr>, Lines) {
    let (sender, receiver) = mpsc::channel();
    let lines = Lines::default();
    let kept = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("{line}");
            if let Some(address) = address_in(&line) {
                let _ = sender.send(address); // nobody waits for it any more
            }
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_back(line);
            if kept.len() > LAST_WORDS {
                kept.pop_front();
            }
        }
    });
    (receiver, lines)
}

fn address_in(line: &str) -> Option<SocketAddr> {
    line.split_once("listening on http://")?.1.trim().parse().ok()
}

/// Seconds by thread name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cpu {
    threads: BTreeMap<String, f64>,
    /// Whether they are to the nanosecond; else to the system's tick.
    pub exact: bool,
}

impl Cpu {
    /// What was added since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let added = |(name, time): (&String, &f64)| {
            let before = before.threads.get(name).copied().unwrap_or(0.0);
            (name.clone(), (time - before).max(0.0))
        };
        Self {
            threads: self.threads.iter().map(added).collect(),
            exact: self.exact && before.exact,
        }
    }
    /// Of the engine: its own thread, those of the CPU's products, those of the driver.
    pub fn engine(&self) -> f64 {
        self.sum(is_engine)
    }
    /// Of all others: connections, JSON, templates, tokens.
    pub fn http(&self) -> f64 {
        self.sum(|name| !is_engine(name))
    }
    fn sum(&self, of: impl Fn(&str) -> bool) -> f64 {
        self.threads.iter().filter(|(name, _)| of(name)).map(|(_, time)| time).sum()
    }
}

fn is_engine(thread: &str) -> bool {
    thread == "engine" || ["imp-cpu", "cuda"].iter().any(|begin| thread.starts_with(begin))
}

/// Time on a processor, of `schedstat`.
fn nanoseconds(schedstat: &str) -> Option<f64> {
    let time: u64 = schedstat.split(' ').next()?.parse().ok()?;
    Some(time as f64 * 1e-9)
}

/// User and system time, of `stat`, in Linux' ticks of 10 ms.
fn ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?; // the name before it may hold anything
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some((next()? + next()?) as f64 * 0.01)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_the_system() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(ticks(stat), Some(2.0));
        assert_eq!(nanoseconds("1500000000 12 3\n"), Some(1.5));
        assert_eq!((ticks("7"), nanoseconds("")), (None, None));
    }

    #[test]
    fn memory_is_read_from_the_system() {
        let status = "Name:\timp\nVmRSS:\t  2048 kB\nRssAnon:\t  1024 kB\n";
        assert_eq!(Memory::of(status), Some(Memory { all: 2 << 20, own: 1 << 20 }));
        assert_eq!(Memory::of("VmRSS:\t 1 kB"), Some(Memory { all: 1 << 10, own: 1 << 10 }));
        assert_eq!(Memory::of(""), None);
    }

    #[test]
    fn threads_are_the_engines_or_http() {
        let cpu = |engine: f64, pool: f64, main: f64| Cpu {
            threads: [("engine", engine), ("imp-cpu-1", pool), ("imp-server", main)]
                .map(|(name, time)| (name.to_owned(), time))
                .into(),
            exact: true,
        };
        let added = cpu(5.0, 3.0, 1.5).since(&cpu(1.0, 1.0, 1.0));
        assert_eq!((added.engine(), added.http()), (6.0, 0.5));
    }

    #[test]
    fn the_address_is_in_what_the_server_says() {
        let line = "imp-server: listening on http://127.0.0.1:8080";
        assert_eq!(address_in(line), Some(([127, 0, 0, 1], 8080).into()));
        assert_eq!(address_in("imp-server: ready"), None);
    }

    #[test]
    fn a_server_that_ends_is_told_with_its_last_words() {
        let arguments = ["--what".to_owned()];
        let error = Server::start(Path::new("/bin/ls"), Path::new("m"), &arguments).err().unwrap();
        assert!(error.to_string().contains("--what") || error.to_string().contains("--model"));
    }
}
