//! The `process_*` metrics that every Prometheus client library exports, read from `/proc/self` at scrape time.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::Family;
use super::names;

/// The families of this process. One whose source cannot be read (a hardened `/proc`) is left out of the scrape.
pub fn families(started: SystemTime) -> Vec<Family> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let start = started.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs_f64());
    let samples = [
        (names::PROCESS_CPU_SECONDS, Some(cpu_seconds())),
        (names::PROCESS_OPEN_FDS, open_fds()),
        // Unlimited is told as infinity, as other exporters do.
        (names::PROCESS_MAX_FDS, Some(getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |n| n as f64))),
        (names::PROCESS_VIRTUAL_MEMORY_BYTES, kilobytes(&status, "VmSize:")),
        (names::PROCESS_RESIDENT_MEMORY_BYTES, kilobytes(&status, "VmRSS:")),
        (names::PROCESS_START_TIME_SECONDS, start),
        (names::PROCESS_THREADS, number(&status, "Threads:")),
    ];
    samples.into_iter().filter_map(|(metric, value)| Some(Family::single(metric, value?))).collect()
}

/// From the process clock rather than from `/proc/self/stat`, whose ticks are coarse and of a size to be asked for.
fn cpu_seconds() -> f64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

fn open_fds() -> Option<f64> {
    // One of the entries is the directory that is being read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn kilobytes(status: &str, field: &str) -> Option<f64> {
    number(status, field).map(|kb| kb * 1024.0)
}

fn number(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_layout_of_proc_status() {
        let status = "Name:\tx\nVmSize:\t  123456 kB\nVmRSS:\t    2048 kB\nThreads:\t7\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(2_097_152.0));
        assert_eq!(number(status, "Threads:"), Some(7.0));
        assert_eq!(number(status, "Absent:"), None);
    }

    #[test]
    fn an_open_file_is_counted_and_every_family_is_there() {
        let before = open_fds().unwrap();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        // Other tests of this process open and close files meanwhile, but not fifty.
        assert!(open_fds().unwrap() > before + 25.0);
        drop(files);
        assert_eq!(families(SystemTime::now()).len(), 7);
        assert!(cpu_seconds() > 0.0);
    }
}
