//! Measures how much memory Redis needs for a waiting job.

use std::time::Duration;

use anyhow::Result;

use super::rig::{Rig, arrival};
use super::{Figures, figures};

/// Schedules `jobs` jobs over a thousand destinations, and compares the memory of Redis before and
/// after. The journal is emptied before the second reading: its size depends on how long it keeps
/// events, and not on the waiting jobs.
pub(crate) async fn memory(jobs: usize) -> Result<Figures> {
    let rig = Rig::new().await?;
    let before = rig.memory().await?;
    let mut data = 0;
    let arrivals = (0..jobs).map(|n| {
        let mut arrival = arrival(n, n % 1_000, Duration::from_secs(86_400));
        // Padded so that each job has 300 bytes of data in total: its id and its record.
        let size =
            arrival.job.key().len() + arrival.head.line().len() + 1 + arrival.message.line().len();
        arrival.message.stream = Some("n".repeat(300_usize.saturating_sub(size) + 4));
        data +=
            arrival.job.key().len() + arrival.head.line().len() + 1 + arrival.message.line().len();
        arrival
    });
    rig.schedule(arrivals).await?;
    rig.store.trim_journal(Duration::ZERO).await?;
    let after = rig.memory().await?;
    rig.end().await;
    Ok(figures([
        ("bytes of data per job", data as f64 / jobs as f64),
        ("bytes of redis per job", (after - before) / jobs as f64),
    ]))
}
