//! Makes inputs that are nearly correct: words that the parsers know, in any order, and documents
//! with some damage.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

/// How many inputs each property is tried with.
const CASES: u32 = 500;

/// Tries a property. Panics if it does not hold.
pub(super) fn try_all(inputs: &impl Strategy<Value = Vec<u8>>, check: impl Fn(&[u8])) {
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    // The same inputs in every run. The fuzz targets use random inputs.
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let tried = runner.run(inputs, |bytes| {
        check(&bytes);
        Ok(())
    });
    match tried {
        Ok(()) => {}
        Err(TestError::Fail(why, bytes)) => {
            panic!("{why}, given {:?}", String::from_utf8_lossy(&bytes))
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

/// Any bytes.
pub(super) fn anything() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..2_000)
}

/// Up to `most` of these words one after the other, with some other text between them.
pub(super) fn words(known: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<u8>> {
    let noise = prop_oneof![
        any::<char>().prop_map(String::from),
        "[ -~]{0,8}",
        "[0-9.]{1,12}",
        Just(" ".repeat(70))
    ];
    let word = prop_oneof![9 => select(known).prop_map(str::to_owned), 1 => noise];
    vec(word, 0..most).prop_map(|words| words.concat().into_bytes())
}

/// One of the documents, with some damage.
pub(super) fn damaged(documents: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damage = (0..5_u8, any::<Index>(), 0..80_usize, vec(any::<u8>(), 0..4));
    (select(documents), vec(damage, 0..8)).prop_map(|(mut bytes, damages)| {
        for (kind, at, count, other) in damages {
            let at = at.index(bytes.len() + 1);
            let end = (at + count).min(bytes.len());
            match kind {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..end)),
                2 => drop(bytes.splice(at..at, other)),
                3 => drop(bytes.splice(at..end, other)),
                _ => {
                    let again = bytes[at..end].repeat(3);
                    bytes.splice(at..at, again);
                }
            }
        }
        bytes
    })
}
