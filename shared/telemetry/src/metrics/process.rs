//! What every process reports about itself, by the names that all exporters for Prometheus have:
//! memory, CPU time, open files and the time of its start. Read from /proc when it is scraped.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::catalog::register;

/// How many ticks /proc counts in a second, on all platforms that Redeliver runs on.
const TICKS: f64 = 100.0;

/// No labels. A family without labels can be absent.
type Labels = [(&'static str, &'static str); 0];

type AbsentGauge = Family<Labels, Gauge<f64, AtomicU64>>;

/// The figures of this process. One that cannot be read is absent.
#[derive(Clone, Debug, Default)]
pub(super) struct ProcessFigures {
    resident_memory: AbsentGauge,
    virtual_memory: AbsentGauge,
    cpu: Family<Labels, Counter<f64, AtomicU64>>,
    open_fds: AbsentGauge,
    max_fds: AbsentGauge,
    start_time: AbsentGauge,
}

impl ProcessFigures {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self::default();
        macro_rules! register {
            ($($name:literal $field:ident)+) => {
                $(register(registry, $name, new.$field.clone());)+
            };
        }
        register! {
            "process_resident_memory_bytes" resident_memory
            "process_virtual_memory_bytes" virtual_memory
            "process_cpu_seconds_total" cpu
            "process_open_fds" open_fds
            "process_max_fds" max_fds
            "process_start_time_seconds" start_time
        }
        new
    }

    /// Reads all figures.
    pub(super) fn refresh(&self) {
        let read = |name: &str| fs::read_to_string(format!("/proc/{name}")).unwrap_or_default();
        let (status, stat) = (read("self/status"), read("self/stat"));
        let kibibytes = |key| Some(number_after(&status, key)? * 1_024.0);
        set(&self.resident_memory, kibibytes("VmRSS:"));
        set(&self.virtual_memory, kibibytes("VmSize:"));
        let cpu = || Some((stat_field(&stat, 14)? + stat_field(&stat, 15)?) / TICKS);
        match cpu() {
            Some(seconds) => {
                let counter = self.cpu.get_or_create(&[]);
                counter.inner().store(seconds.to_bits(), Ordering::Relaxed);
            }
            None => self.cpu.clear(),
        }
        let open = fs::read_dir("/proc/self/fd");
        // The directory itself is open while it is read.
        set(
            &self.open_fds,
            open.ok().map(|open| open.count().saturating_sub(1) as f64),
        );
        set(
            &self.max_fds,
            number_after(&read("self/limits"), "Max open files"),
        );
        let start = || Some(number_after(&read("stat"), "btime")? + stat_field(&stat, 22)? / TICKS);
        set(&self.start_time, start());
    }
}

fn set(gauge: &AbsentGauge, value: Option<f64>) {
    match value {
        Some(value) => {
            gauge.get_or_create(&[]).set(value);
        }
        None => gauge.clear(),
    }
}

/// Returns the first number in the line that begins with this key.
fn number_after(text: &str, key: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns a field of /proc/self/stat, by its number in proc(5). The second field, the name of the
/// program, may have spaces and brackets.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name
        .split_whitespace()
        .nth(number.checked_sub(3)?)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_reports_plausible_figures_of_itself() {
        let figures = ProcessFigures::default();
        let busy = std::time::Instant::now();
        while busy.elapsed().as_millis() < 60 {
            std::hint::black_box(busy);
        }
        figures.refresh();
        let value = |gauge: &AbsentGauge| gauge.get_or_create(&[]).get();
        let (resident, size) = (
            value(&figures.resident_memory),
            value(&figures.virtual_memory),
        );
        assert!(resident > 1e5 && size > resident, "{resident} {size}");
        let cpu = figures.cpu.get_or_create(&[]).get();
        assert!(cpu > 0.0 && cpu < 1e5, "{cpu}");
        let (open, most) = (value(&figures.open_fds), value(&figures.max_fds));
        assert!(open >= 3.0 && most >= open, "{open} {most}");
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - value(&figures.start_time);
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }

    #[test]
    fn the_name_of_the_program_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 1 0 99 0";
        assert_eq!(stat_field(stat, 14), Some(250.0));
        assert_eq!(stat_field(stat, 15), Some(50.0));
        assert_eq!(stat_field(stat, 22), Some(99.0));
        assert_eq!(stat_field("", 22), None);
    }
}
