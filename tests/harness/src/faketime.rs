//! A wall clock that a test can set while a process runs, by libfaketime. As with a real clock,
//! setting it does not change the monotonic clocks.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

/// The folders of libfaketime in various distributions.
const FOLDERS: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
];

/// A wall clock. Processes that are started with its [`environment`](Self::environment) read it.
pub struct FakeClock {
    folder: TempDir,
}

impl FakeClock {
    /// A clock that differs from the real one by `offset`, in the format of [`set`](Self::set).
    pub fn new(offset: &str) -> Self {
        let clock = Self {
            folder: TempDir::with_prefix("redeliver-clock-").expect("a folder can be made"),
        };
        clock.set(offset);
        clock
    }

    /// Sets the clock of all processes that use it: `+0` is the real time, `+1d` is a day ahead,
    /// `-1h` is an hour behind.
    pub fn set(&self, offset: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, format!("{offset}\n")).expect("the folder can be written to");
        fs::rename(new, self.file()).expect("the folder can be written to");
    }

    /// Returns the environment variables that make a process use this clock.
    ///
    /// # Panics
    /// If libfaketime is not installed.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            // The C library comes before the program's own allocator, jemalloc, so that jemalloc is
            // not used: it reads the clock while it is being set up.
            (
                "LD_PRELOAD",
                format!("{}:libc.so.6", library().display()).into(),
            ),
            ("FAKETIME_TIMESTAMP_FILE", self.file().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }
}

/// Whether libfaketime is installed.
pub fn is_installed() -> bool {
    find_library().is_some()
}

fn library() -> PathBuf {
    find_library().expect("libfaketime is missing: install it with `apt-get install faketime`")
}

fn find_library() -> Option<PathBuf> {
    let libraries = FOLDERS.map(|folder| PathBuf::from(folder).join("libfaketimeMT.so.1"));
    libraries.into_iter().find(|library| library.exists())
}
