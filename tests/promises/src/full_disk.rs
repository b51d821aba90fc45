//! If the folder for temporary files is full or missing, a request that needs it gets an error with
//! the cause and with the number of processed lines. Bounces that were accepted before stay
//! accepted.

use std::path::Path;
use std::process::Command;

use harness::bounce::{FULL, bounce};
use harness::http::{NDJSON, client, problem};
use harness::port::free_port;
use harness::process::{self, Redeliver};
use harness::redis;
use harness::wait::eventually;
use harness::world::World;
use tempfile::TempDir;

/// So many lines that their answers fit neither into the memory for answers nor on the disks of
/// these tests.
const LINES: usize = 2_000;

fn lines() -> String {
    (0..LINES)
        .map(|n| format!("{}\n", bounce(&format!("user{n}@example.com"), "m1", FULL)))
        .collect()
}

/// A scheduler, started from a shell that runs `shell` first and may set the folder for temporary
/// files.
async fn scheduler(world: &World, shell: &str, keys: &str) -> (Redeliver, String) {
    let port = free_port();
    let (url, prefix, shards) = (redis::url(), &world.prefix, world.store.shards());
    let config = format!(
        "[redis]\nurl = \"{url}\"\nprefix = \"{prefix}\"\nshards = {shards}\n[scheduler]\n\
         listen = \"127.0.0.1:{port}\"\n\
         batch = 100\nanswers_in_memory = \"1KiB\"\n{keys}"
    );
    let shell = format!("{shell}\nexec \"$@\"");
    let process = Redeliver::start_by(&["sh", "-c", &shell, "sh"], &[], &["scheduler"], &config);
    let base = format!("http://127.0.0.1:{port}");
    let ready = async || {
        client()
            .get(format!("{base}/readyz"))
            .send()
            .await
            .ok()
            .filter(|ready| ready.status() == 200)
    };
    eventually("the scheduler", ready).await;
    (process, base)
}

/// A disk of 64 KiB. It exists until this value is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts the disk. Returns `None` if this fails, for example because the tests do not run as
    /// root.
    fn mount() -> Option<Self> {
        let folder = TempDir::new().expect("a folder can be made");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(folder.path())
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
    }
}

#[tokio::test]
async fn a_request_without_room_for_its_answers_gets_the_cause_and_the_number_of_processed_lines() {
    let disk = SmallDisk::mount();
    let on_disk = disk
        .as_ref()
        .map(|disk| format!("export TMPDIR={}", disk.path().display()));
    for (shell, keys, cause) in [
        // No file may be larger than 64 blocks. With the trap, a larger write fails. Without it, a
        // signal would end the scheduler.
        (Some("trap '' XFSZ; ulimit -f 64".to_owned()), "", "TMPDIR"),
        (on_disk, "", "No space left"),
        (
            Some("export TMPDIR=/nonexistent".to_owned()),
            "",
            "/nonexistent",
        ),
        (
            Some(":".to_owned()),
            "answers_max = \"64KiB\"\n",
            "scheduler.answers_max",
        ),
    ] {
        let Some(shell) = shell else { continue };
        let world = World::new().await;
        let (process, base) = scheduler(&world, &shell, keys).await;
        let request = client()
            .post(format!("{base}/v1/bounces"))
            .header("content-type", NDJSON)
            .body(lines());
        let response = request.send().await.unwrap();
        assert!(response.headers().contains_key("retry-after"));
        let answer = problem(response, 507).await;
        let detail = answer["detail"].as_str().unwrap();
        assert!(
            detail.contains(cause) && !detail.contains("store"),
            "{detail}"
        );
        let taken_in = answer["taken_in"].as_u64().unwrap();
        assert!(
            (100..LINES as u64).contains(&taken_in) && detail.contains(&taken_in.to_string()),
            "{answer}"
        );
        for n in [0, taken_in - 1] {
            assert!(
                world
                    .job_if_any(&format!("user{n}@example.com"))
                    .await
                    .is_some(),
                "line {} is lost",
                n + 1
            );
        }
        let log = process.log();
        assert!(
            log.contains("could not be kept") || log.contains("have no room"),
            "{log}"
        );
    }
}

#[tokio::test]
async fn a_submission_without_room_for_its_refused_lines_fails_and_writes_only_complete_lines() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let world = World::new().await;
    let (_process, base) = scheduler(&world, ":", "").await;
    let folder = TempDir::new().unwrap();
    let (file, refused) = (folder.path().join("bounces"), disk.path().join("refused"));
    let line = format!("not JSON {}\n", "x".repeat(1_000));
    std::fs::write(&file, line.repeat(200)).unwrap();
    let arguments = [
        "submit",
        "--api",
        &base,
        "--refused",
        refused.to_str().unwrap(),
        file.to_str().unwrap(),
    ];
    let output = process::run(&arguments).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && stderr.contains("No space left") && stderr.contains("--resume"),
        "{stderr}"
    );
    let kept = std::fs::read_to_string(&refused).unwrap();
    assert!(
        !kept.is_empty() && kept == line.repeat(kept.len() / line.len()),
        "the file contains only complete lines"
    );
}
