//! Which of many short pieces occur in a text. A classic automaton of them has megabytes, and misses the processor's
//! caches with nearly every byte. Here each piece is looked for by three of its bytes, the ones that the fewest share: a
//! table of one bit for each hash of three bytes stays in the fastest cache, and where its bit is set the piece is compared.

/// How many bytes a piece has at least.
pub(super) const LENGTH_MIN: usize = 3;

/// Bits of a hash of three bytes.
const HASH_BITS: u32 = 15;

/// Pieces, numbered in the order in which they were given. The letters a to z have one case.
pub(super) struct Pieces {
    /// The bits of the hashes that some piece is looked for by.
    known: Box<[u64; (1 << HASH_BITS) / 64]>,
    /// Where in `anchors` those of a hash begin; they end where the next hash's begin.
    starts: Vec<u16>,
    anchors: Vec<Anchor>,
    /// The bytes of all pieces, in lower case.
    bytes: Vec<u8>,
}

/// The three bytes that a piece is looked for by.
#[derive(Clone, Copy)]
struct Anchor {
    hash: u16,
    piece: u16,
    /// How many bytes of the piece stand before them.
    before: u16,
    length: u16,
    /// Where the piece is in the bytes of all.
    at: u32,
}

impl Pieces {
    /// Takes pieces of [`LENGTH_MIN`] bytes and more, of which there can be 65,535. Shorter ones are never found.
    pub(super) fn new(words: &[Vec<u8>]) -> Self {
        let hashes = |word: &[u8]| -> Vec<u16> { word.windows(LENGTH_MIN).map(|three| hash(packed(three))).collect() };
        let mut shared = vec![0_u32; 1 << HASH_BITS];
        words.iter().flat_map(|word| hashes(word)).for_each(|hash| shared[usize::from(hash)] += 1);
        let mut bytes = Vec::new();
        let mut anchors = Vec::new();
        for (piece, word) in words.iter().enumerate() {
            let rarest = hashes(word).into_iter().enumerate().min_by_key(|(_, hash)| shared[usize::from(*hash)]);
            let number = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
            anchors.extend(rarest.map(|(before, hash)| Anchor {
                hash,
                piece: number(piece),
                before: number(before),
                length: number(word.len()),
                at: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            }));
            bytes.extend(word.iter().map(u8::to_ascii_lowercase));
        }
        anchors.sort_by_key(|anchor| anchor.hash);
        let mut known = Box::new([0; (1 << HASH_BITS) / 64]);
        anchors.iter().for_each(|anchor| known[usize::from(anchor.hash) / 64] |= 1 << (anchor.hash % 64));
        let start = |hash| anchors.partition_point(|anchor| anchor.hash < hash).try_into().unwrap_or(u16::MAX);
        let starts = (0..=1 << HASH_BITS).map(start).collect();
        Self { known, starts, anchors, bytes }
    }

    /// Calls `found` with the number of each piece that occurs in `text`, as often as it occurs. Takes time linear in `text`.
    pub(super) fn each(&self, text: &[u8], mut found: impl FnMut(usize)) {
        let mut three = 0;
        for (end, byte) in text.iter().enumerate() {
            three = three << 8 | u32::from(byte.to_ascii_lowercase());
            let hash = hash(three);
            if self.known[usize::from(hash / 64)] & 1 << (hash % 64) != 0 {
                self.compare(hash, text, end + 1, &mut found);
            }
        }
    }

    /// Compares the pieces of a hash whose three bytes end at `end`.
    fn compare(&self, hash: u16, text: &[u8], end: usize, found: &mut impl FnMut(usize)) {
        let range = usize::from(self.starts[usize::from(hash)])..usize::from(self.starts[usize::from(hash) + 1]);
        for anchor in &self.anchors[range] {
            let word = &self.bytes[anchor.at as usize..][..usize::from(anchor.length)];
            let start = end.checked_sub(LENGTH_MIN + usize::from(anchor.before));
            let here = start.and_then(|start| text.get(start..start + word.len()));
            if here.is_some_and(|here| here.eq_ignore_ascii_case(word)) {
                found(usize::from(anchor.piece));
            }
        }
    }
}

/// Three bytes as one number, in lower case.
fn packed(three: &[u8]) -> u32 {
    three.iter().fold(0, |number, byte| number << 8 | u32::from(byte.to_ascii_lowercase()))
}

/// A number of [`HASH_BITS`] for the lowest three bytes of `three`: multiplicative hashing, by the golden ratio (Knuth, The
/// Art of Computer Programming, section 6.4).
fn hash(three: u32) -> u16 {
    ((three << 8).wrapping_mul(0x9E37_79B1) >> (u32::BITS - HASH_BITS)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_is_found_wherever_it_stands() {
        let words = ["user", "unknown", "use", "no ", "потов"].map(|word| word.as_bytes().to_vec());
        let pieces = Pieces::new(&words);
        for (text, expected) in [
            ("USER", vec![0, 2]),
            ("no user unknown", vec![3, 0, 2, 1]),
            ("unknow", vec![]),
            ("потов user", vec![4, 0, 2]),
            ("us", vec![]),
            ("", vec![]),
        ] {
            let mut found = Vec::new();
            pieces.each(text.as_bytes(), |piece| found.push(piece));
            found.sort_unstable();
            let mut expected = expected;
            expected.sort_unstable();
            assert_eq!(found, expected, "{text}");
        }
    }
}
