//! Addresses: each has one canonical form, which parses to itself, fits into an envelope, and is
//! redacted when it is printed.

use domain::account::Account;
use domain::address::{Address, MAX_ADDRESS, MAX_LOCAL};
use domain::job::JobId;

use crate::is_one_line;

/// Parses any bytes as an address.
///
/// # Panics
/// If the address, or the error, breaks a property.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Address::parse(&text) {
        Ok(address) => check_address(&address),
        // The errors are constants, so they cannot contain personal data.
        Err(why) => assert!(is_one_line(&why.to_string())),
    }
}

/// Checks the properties of every address.
pub(crate) fn check_address(address: &Address) {
    let canonical = address.as_str();
    assert!(
        canonical.len() <= MAX_ADDRESS && address.local().len() <= MAX_LOCAL,
        "{canonical:?}"
    );
    assert!(
        is_one_line(canonical) && canonical == canonical.trim(),
        "{canonical:?}"
    );
    assert_eq!(
        format!("{}@{}", address.local(), address.domain()),
        canonical
    );
    let literal = address.domain().starts_with('[');
    let ascii = address
        .domain()
        .bytes()
        .all(|b| b.is_ascii_graphic() && (literal || !b.is_ascii_uppercase()));
    assert!(
        ascii && !address.domain().contains(['@', '<', '>', '"', '\\', '/']),
        "{canonical:?}"
    );

    for spelling in [canonical.to_owned(), format!(" <{canonical}> ")] {
        assert_eq!(
            Address::parse(&spelling).as_ref(),
            Ok(address),
            "{spelling:?} is another address"
        );
    }
    assert_eq!(
        Address::from_canonical(canonical).as_ref(),
        Ok(address),
        "{canonical:?}"
    );

    // The account ends at the first slash, however many the address contains.
    let id = JobId {
        account: Account::default(),
        recipient: address.clone(),
    };
    for read in [JobId::parse(&id.key()), JobId::from_key(&id.key())] {
        assert_eq!(read.as_ref(), Ok(&id), "{canonical:?}");
    }

    let shown = address.to_string();
    let local = shown.strip_suffix(&format!("…@{}", address.domain()));
    assert!(
        local.is_some_and(|local| local.chars().count() <= 1),
        "{shown:?} shows more than the first letter"
    );
}
