//! What a process used, as Linux tells it.

/// Ticks of `/proc/PID/stat` in a second; the kernel's `USER_HZ`, 100 on every machine this runs on.
const TICKS: u32 = 100;

/// Thousands of connections need as many file descriptors, here and in the server, which inherits the limit.
pub(crate) fn allow_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("file descriptors up to the hard limit");
}

/// Seconds of a core that a process has used, with that of threads that are gone.
pub(crate) fn cpu(pid: u32) -> f64 {
    let stat = Stat::read(pid).unwrap_or_else(|| panic!("process {pid} is gone"));
    stat.own
}

/// Seconds of a core of a process and the children it has or had.
pub(crate) fn cpu_of_family(pid: u32) -> f64 {
    let Some(parent) = Stat::read(pid) else { return 0.0 };
    let mut all = parent.own + parent.of_ended_children;
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let child = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Stat::read);
        all += child.filter(|child| child.parent == pid).map_or(0.0, |child| child.own);
    }
    all
}

struct Stat {
    parent: u32,
    own: f64,
    of_ended_children: f64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it may hold anything, a parenthesis included.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<u32> = rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        let ticks = |first: usize| {
            let sum = fields.get(first).zip(fields.get(first + 1)).map_or(0, |(user, system)| user + system);
            f64::from(sum) / f64::from(TICKS)
        };
        Some(Self { parent: *fields.first()?, own: ticks(10), of_ended_children: ticks(12) })
    }
}

/// Resident memory of a process in KiB.
pub(crate) struct Resident {
    pub(crate) all: u64,
    /// What no file backs: pages of the program itself can be given up and are shared.
    pub(crate) own: u64,
}

/// What a process holds in memory.
pub(crate) fn resident(pid: u32) -> Resident {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{path}: no {name}"));
        line.trim().trim_end_matches(" kB").trim().parse().expect("a number of KiB")
    };
    Resident { all: kib("Rss:"), own: kib("Anonymous:") }
}
