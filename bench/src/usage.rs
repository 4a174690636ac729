//! What processes have used, by the operating system's own books: `/proc`, see proc_pid_stat(5).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Processes that are told of under one name.
#[derive(Debug, Clone)]
pub struct Group {
    pub name: &'static str,
    pub processes: Vec<Counted>,
}

/// Which part of a process's family counts.
#[derive(Debug, Clone, Copy)]
pub enum Counted {
    Itself(u32),
    /// A Postgres server: the postmaster, its children, and those of them that have ended.
    Family(u32),
    /// What has been started by this process and has ended: the load generators.
    EndedChildrenOf(u32),
}

impl Group {
    /// The CPU time that it has used since it began, in user and kernel mode.
    pub fn cpu(&self) -> Result<Duration> {
        self.processes.iter().map(|counted| counted.cpu()).sum()
    }

    /// The most memory that it ever had, in bytes. Of a Postgres server, which shares memory: what its processes have
    /// now, each page counted once.
    pub fn memory(&self) -> Result<u64> {
        self.processes.iter().map(|counted| counted.memory()).sum()
    }
}

impl Counted {
    fn cpu(self) -> Result<Duration> {
        let ticks = match self {
            Self::Itself(pid) => Stat::of(pid)?.own,
            Self::Family(pid) => {
                let server = Stat::of(pid)?;
                server.own + server.ended_children + children(pid)?.iter().map(|(_, stat)| stat.own).sum::<u64>()
            }
            Self::EndedChildrenOf(pid) => Stat::of(pid)?.ended_children,
        };
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    fn memory(self) -> Result<u64> {
        let of = |pid: u32, file: &str, field: &str| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
            kilobytes(&text, field).with_context(|| format!("no {field} in /proc/{pid}/{file}"))
        };
        let kilobytes = match self {
            Self::Itself(pid) => of(pid, "status", "VmHWM")?,
            Self::Family(pid) => {
                let family = std::iter::once(pid).chain(children(pid)?.into_iter().map(|(child, _)| child));
                // One that has ended meanwhile has nothing any more.
                family.map(|process| of(process, "smaps_rollup", "Pss").unwrap_or_default()).sum()
            }
            Self::EndedChildrenOf(_) => 0,
        };
        Ok(kilobytes * 1024)
    }
}

/// `/proc/PID/stat`, as far as it is of interest. Times are in clock ticks.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own: u64,
    ended_children: u64,
}

impl Stat {
    fn of(pid: u32) -> Result<Self> {
        let file = format!("/proc/{pid}/stat");
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        Self::parse(&text).with_context(|| format!("{file} is unusual: {text}"))
    }

    /// The name, the second field, stands in parentheses and may hold anything, parentheses and spaces included.
    fn parse(text: &str) -> Option<Self> {
        let (_, after_name) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let number = |nth: usize| fields.get(nth - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own: number(14)? + number(15)?,
            ended_children: number(16)? + number(17)?,
        })
    }
}

fn children(parent: u32) -> Result<Vec<(u32, Stat)>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        if let Ok(stat) = Stat::of(pid)
            && stat.parent == parent
        {
            children.push((pid, stat));
        }
    }
    Ok(children)
}

/// A line `Name:   123 kB`.
fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The servers that run in a folder of Postgres data folders.
pub fn postgres(data_dir: &Path) -> Result<Group> {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir(data_dir)? {
        let file = entry?.path().join("postmaster.pid");
        if let Ok(text) = std::fs::read_to_string(&file) {
            let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
            processes.push(Counted::Family(pid.with_context(|| format!("no number in {}", file.display()))?));
        }
    }
    Ok(Group { name: "postgres", processes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_process_with_a_strange_name_are_read() {
        let text = "4242 (a (b) c d) S 17 4242 4242 0 -1 4194560 20712 51187 0 3 211 105 734 96 20 0 9 0 87023 \
                    1213190144 11250 18446744073709551615 1 1 0 0 0 0 0 4096 17642 0 0 0 17 1 0 0 0 0 0";
        assert_eq!(Stat::parse(text), Some(Stat { parent: 17, own: 316, ended_children: 830 }));
        assert_eq!(Stat::parse("4242 (a) S 17 4242"), None);
    }

    #[test]
    fn memory_is_found_by_its_name() {
        let status = "Name:\tpostgres\nVmPeak:\t  234816 kB\nVmHWM:\t   31404 kB\nThreads:\t1\n";
        assert_eq!(kilobytes(status, "VmHWM"), Some(31404));
        assert_eq!(kilobytes(status, "Threads"), None);
        assert_eq!(kilobytes(status, "VmRSS"), None);
    }

    #[test]
    fn this_process_and_its_children_are_accounted_for() {
        let me = std::process::id();
        let ended = Counted::EndedChildrenOf(me);
        let before = ended.cpu().unwrap();
        let busy = "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done";
        assert!(std::process::Command::new("sh").args(["-c", busy]).status().unwrap().success());
        assert!(ended.cpu().unwrap() > before);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = children(me).unwrap().iter().any(|(pid, _)| *pid == child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
        assert!(Counted::Itself(me).memory().unwrap() > 100_000);
    }
}
