//! The relay that reports bounces. Some of the messages that it accepted come back by LMTP, to
//! their return path.

use std::sync::Arc;
use std::time::Duration;

use harness::report::DeliveryReport;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Tries, lmtp};
use crate::peers::Report;
use crate::record::{Refuted, now_ms};
use crate::world::World;

/// How long after accepting a message the relay sends the report.
const AFTER: Duration = Duration::from_millis(800);

/// Sends all reports until the run is closing.
pub(crate) async fn report_all(world: Arc<World>, mut reports: UnboundedReceiver<Report>) {
    let mut sending = JoinSet::new();
    while let Some(Some(report)) = world.closing.run_until_cancelled(reports.recv()).await {
        let world = world.clone();
        sending.spawn(async move {
            sleep(AFTER).await;
            let closing = world.closing.clone();
            closing.run_until_cancelled(send(&world, report)).await;
        });
        while sending.try_join_next().is_some() {}
    }
    while sending.join_next().await.is_some() {}
}

async fn send(world: &World, report: Report) {
    let Report {
        return_path,
        recipient,
        message,
        reply,
    } = report;
    let mail = DeliveryReport::failed(&recipient, reply)
        .with_original_field(&format!("Message-ID: {message}"))
        .mail();
    let (mut tries, from) = (Tries::from(message.len()), now_ms());
    let answer = loop {
        let address = world.schedulers[tries.next().await % world.schedulers.len()].lmtp;
        match lmtp::deliver(address, &return_path, &mail).await {
            Ok(answer) if answer.starts_with(['2', '5']) => break answer,
            _ => {}
        }
    };
    if answer.starts_with('5') {
        world.recorder.wrong.push(format!(
            "a relay's report to a signed return path was answered {answer}"
        ));
    }
    world.recorder.refuted.push(Refuted {
        from,
        at: now_ms(),
        message,
        reply: reply.to_owned(),
    });
}
