//! How much memory this process may still take.

use std::fs;
use std::path::Path;

/// Bytes that may be taken without swapping: what the system has, or the process's control groups
/// allow if that is less. Page cache counts as free, since mapped weights are page cache. `None`
/// where the system does not say.
pub fn free_bytes() -> Option<u64> {
    free_under(Path::new("/"))
}

/// The same in a file tree, so that tests can make one.
fn free_under(root: &Path) -> Option<u64> {
    let system = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|t| available(&t));
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| group_free(&root.join("sys/fs/cgroup"), line));
    system.into_iter().chain(limits).min()
}

/// `MemAvailable:  16265664 kB`.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the tightest of a group and its parents leaves; `line` is one of `/proc/self/cgroup`:
/// `0::/user.slice` (version 2), `5:memory:/docker/1f` (version 1).
fn group_free(mount: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let (base, names) = match (id, controllers) {
        ("0", "") => (mount.to_owned(), &V2),
        (_, list) if list.split(',').any(|c| c == "memory") => (mount.join("memory"), &V1),
        _ => return None,
    };
    // A container sees its own group as the mount's root while the path is the host's, so parts
    // of the path that do not exist are no error.
    let ancestors = Path::new(path.trim_start_matches('/')).ancestors();
    ancestors.filter_map(|group| names.free(&base.join(group))).min()
}

/// Names of a control group's files.
struct GroupFiles {
    limit: &'static str,
    usage: &'static str,
    /// Keys of `memory.stat` that count page cache.
    cache: [&'static str; 2],
}

const V2: GroupFiles = GroupFiles {
    limit: "memory.max",
    usage: "memory.current",
    cache: ["inactive_file", "active_file"],
};
const V1: GroupFiles = GroupFiles {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cache: ["total_inactive_file", "total_active_file"],
};

impl GroupFiles {
    /// `None` without a limit.
    fn free(&self, group: &Path) -> Option<u64> {
        let number = |file: &str| -> Option<u64> {
            fs::read_to_string(group.join(file)).ok()?.trim().parse().ok() // "max" is no limit
        };
        let (limit, usage) = (number(self.limit)?, number(self.usage)?);
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let cache = stat.lines().filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            self.cache.contains(&key).then(|| value.trim().parse::<u64>().ok())?
        });
        let used = usage.saturating_sub(cache.fold(0, u64::saturating_add));
        Some(limit.saturating_sub(used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes files under a fresh directory and asks for its free memory.
    fn free_in(name: &str, files: &[(&str, &str)]) -> Option<u64> {
        let root = std::env::temp_dir().join(format!("imp-free-{}-{name}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let free = free_under(&root);
        let _ = fs::remove_dir_all(&root);
        free
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:  100 kB\nMemFree:  1 kB\nMemAvailable:      40 kB\n");

    #[test]
    fn the_system_alone() {
        assert_eq!(free_in("system", &[MEMINFO]), Some(40 * 1024));
        assert_eq!(free_in("nothing", &[("proc/version", "x")]), None);
        assert_eq!(free_in("garbage", &[("proc/meminfo", "MemAvailable: -3 kB\n")]), None);
        let huge = "MemAvailable: 18446744073709551615 kB\n";
        assert_eq!(free_in("huge", &[("proc/meminfo", huge)]), None);
    }

    #[test]
    fn the_tightest_parent_group_counts_and_its_page_cache_is_free() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "30000\n"),
            ("sys/fs/cgroup/a/memory.current", "25000\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 5000\nactive_file 8000\ninactive_file 7000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "25000\n"),
        ];
        assert_eq!(free_in("v2", &files), Some(20_000));
    }

    #[test]
    fn a_container_sees_its_limit_at_the_root_of_the_mount() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "9:cpu:/docker/1f\n5:memory,hugetlb:/docker/1f\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "10000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 4000\n"),
        ];
        assert_eq!(free_in("v1", &files), Some(3_000));
    }
}
