//! Tests every row of the tables in `whose_fault`, and that no row is left out.

use super::*;

const OURS: Side = Side::Ours;
const THEIRS: Side = Side::Theirs;

fn io_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

#[test]
fn each_error_of_a_connection_has_its_side() {
    let rows = [
        ("EMFILE", OURS, OURS),
        ("ENFILE", OURS, OURS),
        ("ENOBUFS", OURS, OURS),
        ("ENOMEM", OURS, OURS),
        ("EAGAIN", OURS, OURS),
        ("EADDRNOTAVAIL", OURS, OURS),
        ("EADDRINUSE", OURS, OURS),
        ("EAFNOSUPPORT", OURS, OURS),
        ("EPERM", OURS, OURS),
        ("EACCES", OURS, THEIRS),
        ("EINVAL", OURS, OURS),
        ("ENETDOWN", OURS, OURS),
        ("ENETUNREACH", OURS, THEIRS),
        ("EHOSTUNREACH", OURS, THEIRS),
        ("EHOSTDOWN", THEIRS, THEIRS),
        ("ECONNREFUSED", THEIRS, THEIRS),
        ("ECONNRESET", THEIRS, THEIRS),
        ("ECONNABORTED", THEIRS, THEIRS),
        ("ENETRESET", THEIRS, THEIRS),
        ("ETIMEDOUT", THEIRS, THEIRS),
        ("EPIPE", THEIRS, THEIRS),
        ("ENOTCONN", THEIRS, THEIRS),
        ("ENOPROTOOPT", OURS, THEIRS),
        ("EOPNOTSUPP", OURS, THEIRS),
        ("EMSGSIZE", OURS, THEIRS),
        ("EPROTO", OURS, THEIRS),
        ("EIO", OURS, OURS),
    ];
    assert_eq!(
        rows.map(|row| row.0),
        NETWORK.map(|row| row.name),
        "a row has no test"
    );
    for ((name, at_once, later), row) in rows.into_iter().zip(NETWORK) {
        for (when, side) in [(When::AtOnce, at_once), (When::Later, later)] {
            let cause = network_error(&io_error(row.errno), when);
            assert_eq!((cause.name, cause.side), (name, side), "{when:?}");
            assert_eq!(
                cause.advice.is_empty(),
                side == THEIRS,
                "{name}: an error on our side has advice"
            );
        }
        assert_eq!(
            own_error(&io_error(row.errno)).map(|cause| cause.side),
            Some(OURS),
            "{name} from a server of ours"
        );
    }
}

#[test]
fn each_error_of_a_file_has_its_side() {
    let rows = [
        ("ENOENT", THEIRS),
        ("ENOTDIR", THEIRS),
        ("EISDIR", THEIRS),
        ("ELOOP", THEIRS),
        ("ENAMETOOLONG", THEIRS),
        ("EINVAL", THEIRS),
        ("EACCES", OURS),
        ("EPERM", OURS),
        ("EIO", OURS),
        ("ENOSPC", OURS),
        ("EDQUOT", OURS),
        ("EROFS", OURS),
        ("ESTALE", OURS),
        ("ETIMEDOUT", OURS),
        ("EMFILE", OURS),
        ("ENFILE", OURS),
        ("ENOMEM", OURS),
    ];
    assert_eq!(
        rows.map(|row| row.0),
        FILES.map(|row| row.name),
        "a row has no test"
    );
    for ((name, side), row) in rows.into_iter().zip(FILES) {
        let cause = file_error(&io_error(row.errno));
        assert_eq!((cause.name, cause.side), (name, side));
        assert_eq!(
            cause.advice.is_empty(),
            side == THEIRS,
            "{name}: an error on our side has advice"
        );
    }
}

#[test]
fn each_response_code_of_the_dns_has_its_side() {
    let rows = [
        (1, "FORMERR", OURS),
        (2, "SERVFAIL", THEIRS),
        (4, "NOTIMP", OURS),
        (5, "REFUSED", OURS),
        (6, "YXDOMAIN", THEIRS),
        (7, "YXRRSET", OURS),
        (8, "NXRRSET", OURS),
        (9, "NOTAUTH", OURS),
        (10, "NOTZONE", OURS),
        (16, "BADVERS", OURS),
        (17, "BADKEY", OURS),
        (18, "BADTIME", OURS),
        (19, "BADMODE", OURS),
        (20, "BADNAME", OURS),
        (21, "BADALG", OURS),
        (22, "BADTRUNC", OURS),
        (23, "BADCOOKIE", OURS),
    ];
    assert_eq!(
        rows.map(|row| row.0),
        RESPONSES.map(|row| row.code),
        "a row has no test"
    );
    for (code, name, side) in rows {
        let cause = response_code(code);
        assert_eq!((cause.name, cause.side), (name, side));
        assert_eq!(
            cause.advice.is_empty(),
            side == THEIRS,
            "{name}: an error on our side has advice"
        );
    }
    assert_eq!(response_code(4_000).side, OURS, "an unknown code is ours");
}

#[test]
fn each_unusable_answer_has_its_side() {
    for (unusable, side) in [
        (Unusable::Late, OURS),
        (Unusable::Unasked, OURS),
        (Unusable::Broken, THEIRS),
        (Unusable::TooLong, THEIRS),
        (Unusable::BadName, THEIRS),
    ] {
        assert_eq!(unusable.cause().side, side, "{unusable:?}");
    }
}

#[test]
fn an_error_that_is_in_no_table_is_ours() {
    for err in [
        io_error(Errno::ENOTSOCK),
        io::Error::other("an error of a library"),
    ] {
        assert_eq!(network_error(&err, When::Later), UNKNOWN, "{err}");
        assert_eq!(file_error(&err), UNKNOWN, "{err}");
    }
}

#[test]
fn an_error_without_a_number_is_judged_by_its_kind() {
    for (kind, name) in [
        (ErrorKind::UnexpectedEof, "ECONNRESET"),
        (ErrorKind::ConnectionReset, "ECONNRESET"),
        (ErrorKind::ConnectionAborted, "ECONNABORTED"),
        (ErrorKind::ConnectionRefused, "ECONNREFUSED"),
        (ErrorKind::NotConnected, "ENOTCONN"),
        (ErrorKind::BrokenPipe, "EPIPE"),
        (ErrorKind::WriteZero, "EPIPE"),
        (ErrorKind::TimedOut, "ETIMEDOUT"),
        (ErrorKind::InvalidData, "EPROTO"),
        (ErrorKind::InvalidInput, "EINVAL"),
        (ErrorKind::PermissionDenied, "EACCES"),
        (ErrorKind::OutOfMemory, "ENOMEM"),
    ] {
        assert_eq!(network_error(&kind.into(), When::Later).name, name);
    }
    for (kind, name) in [
        (ErrorKind::NotFound, "ENOENT"),
        (ErrorKind::InvalidFilename, "ENAMETOOLONG"),
    ] {
        assert_eq!(file_error(&kind.into()).name, name);
    }
    let alert = io::Error::new(
        ErrorKind::InvalidData,
        "received fatal alert: InternalError",
    );
    assert_eq!(network_error(&alert, When::Later).side, THEIRS);
    assert_eq!(file_error(&alert), UNKNOWN, "no file is read over TLS");
}

#[test]
fn the_explanation_names_the_error_and_what_to_do() {
    let text =
        network_error(&io_error(Errno::EMFILE), When::AtOnce).explain("mx1.example.com: no socket");
    assert_eq!(
        text,
        "mx1.example.com: no socket (EMFILE): \
         raise the limit of open files (LimitNOFILE= or ulimit -n)"
    );
    let text = network_error(&io_error(Errno::ECONNREFUSED), When::Later)
        .explain("mx1.example.com: refused");
    assert_eq!(text, "mx1.example.com: refused (ECONNREFUSED)");
}

#[test]
fn the_error_of_the_system_is_found_below_others() {
    #[derive(Debug, thiserror::Error)]
    #[error("not connected")]
    struct Above(#[source] io::Error);

    let above = Above(io_error(Errno::EMFILE));
    assert_eq!(
        system_error(&above).map(|err| network_error(err, When::AtOnce).name),
        Some("EMFILE")
    );
    assert!(system_error(&Above(io::Error::other("no number"))).is_none());
}
