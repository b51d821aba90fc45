//! The limit of files, and so of connections, that this process can have open at once.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files as far as this process is allowed to. Returns the new limit.
///
/// # Errors
/// If the system does not report the limit, or refuses to raise it. The text explains what to do.
pub fn raise() -> Result<usize, String> {
    let unknown = |err: Errno| format!("the limit of open files is not known: {err}");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(unknown)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(|err| {
            format!(
                "the limit of open files stays at {soft}, it cannot be raised to {hard}: {err}; \
                 set LimitNOFILE= or ulimit -n"
            )
        })?;
    }
    Ok(limit())
}

/// Returns how many files can be open at once.
pub fn limit() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft);
    limit
        .ok()
        .and_then(|soft| usize::try_from(soft).ok())
        .unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_the_most_that_the_system_allows() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise().unwrap() as u64, hard);
        assert_eq!(limit() as u64, hard);
    }
}
