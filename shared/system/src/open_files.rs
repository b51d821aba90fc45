//! How many files, and so connections, this process may have open at once.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files as far as this process may, and returns the limit that holds
/// then.
///
/// # Errors
/// If the system does not tell the limit, or refuses to raise it; the text says what to do.
pub fn raise() -> Result<usize, String> {
    let asked = |err: Errno| format!("the limit of open files is not known: {err}");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(asked)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(|err| {
            format!("the limit of open files stays at {soft}, it cannot be raised to {hard}: {err}; set LimitNOFILE= or ulimit -n")
        })?;
    }
    Ok(limit())
}

/// How many files may be open at once.
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
    fn the_limit_becomes_what_the_system_allows() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise().unwrap() as u64, hard);
        assert_eq!(limit() as u64, hard);
    }
}
