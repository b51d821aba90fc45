//! Finds which of many short pieces occur in a text. A classic automaton for all of them would take
//! megabytes, and miss the processor's caches at nearly every byte.
//!
//! So each piece is found by a key: three or four of its bytes, chosen so that few other pieces
//! share them. A table with one bit per hash of a key fits into the fastest cache. If the bit is
//! set, the whole piece is compared. The table is checked at every byte of a run before any piece
//! is compared, because most checks find nothing.

/// The smallest length of a piece, in bytes.
pub(super) const LENGTH_MIN: usize = 3;

/// The length of the key of pieces that are longer than [`LENGTH_MIN`], in bytes.
const LENGTH_KEY: usize = 4;

/// The length of a hash, in bits.
const HASH_BITS: u32 = 16;

/// How many leading bits of a hash select the bucket with its anchors.
const BUCKET_BITS: u32 = 11;

/// The number of bytes of a text for which the table is checked at once.
const RUN: usize = u64::BITS as usize;

/// Pieces, numbered in the order in which they were given. Pieces and texts are in lower case.
pub(super) struct Pieces {
    /// One bit per hash: set if it is the hash of some piece's key.
    known: Box<[u64; (1 << HASH_BITS) / 64]>,
    /// For each bucket, the position of its first anchor in `anchors`. A bucket ends where the next
    /// one begins.
    starts: Box<[u16; (1 << BUCKET_BITS) + 1]>,
    anchors: Vec<Anchor>,
    /// Whether there are pieces of [`LENGTH_MIN`] bytes, whose keys are shorter.
    has_short: bool,
    /// The bytes of all pieces.
    bytes: Vec<u8>,
}

/// The key of one piece, with its place in the piece.
#[derive(Clone, Copy)]
struct Anchor {
    hash: u16,
    piece: u16,
    /// How many bytes of the piece follow the key.
    after: u16,
    /// The length of the piece, in bytes.
    length: u16,
    /// Where the piece begins in the bytes of all pieces.
    at: u32,
}

impl Pieces {
    /// Takes pieces of at least [`LENGTH_MIN`] bytes, and at most 65,535 of them. Shorter pieces
    /// are never found.
    pub(super) fn new(words: &[Vec<u8>]) -> Self {
        let keys = |word: &[u8]| -> Vec<u16> {
            word.windows(word.len().clamp(LENGTH_MIN, LENGTH_KEY))
                .map(|key| hash(packed(key)))
                .collect()
        };
        let mut shared = vec![0_u32; 1 << HASH_BITS];
        words
            .iter()
            .flat_map(|word| keys(word))
            .for_each(|hash| shared[usize::from(hash)] += 1);
        let mut bytes = Vec::new();
        let mut anchors = Vec::new();
        let number = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        for (piece, word) in words.iter().enumerate() {
            let rarest = keys(word)
                .into_iter()
                .rev()
                .enumerate()
                .min_by_key(|(_, hash)| shared[usize::from(*hash)]);
            anchors.extend(rarest.map(|(after, hash)| Anchor {
                hash,
                piece: number(piece),
                after: number(after),
                length: number(word.len()),
                at: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            }));
            bytes.extend(word);
        }
        anchors.sort_by_key(|anchor| anchor.hash);
        let mut known = Box::new([0; (1 << HASH_BITS) / 64]);
        anchors
            .iter()
            .for_each(|anchor| known[usize::from(anchor.hash) / 64] |= 1 << (anchor.hash % 64));
        let mut starts = Box::new([0; (1 << BUCKET_BITS) + 1]);
        for (n, start) in starts.iter_mut().enumerate() {
            *start = number(anchors.partition_point(|anchor| bucket(anchor.hash) < n));
        }
        Self {
            known,
            starts,
            anchors,
            has_short: words.iter().any(|word| word.len() == LENGTH_MIN),
            bytes,
        }
    }

    /// Calls `found` with the number of each piece in `text` and the position after it, once for
    /// every occurrence. Takes time linear in `text`.
    pub(super) fn for_each_in(&self, text: &[u8], mut found: impl FnMut(usize, usize)) {
        match self.has_short {
            true => self.for_each_key::<true>(text, &mut found),
            false => self.for_each_key::<false>(text, &mut found),
        }
    }

    /// Does the same. Without short keys, half of the checks are left out.
    fn for_each_key<const SHORT: bool>(&self, text: &[u8], found: &mut impl FnMut(usize, usize)) {
        let mut four = 0;
        for (run, bytes) in text.chunks(RUN).enumerate() {
            let mut ends = 0_u64;
            for (n, byte) in bytes.iter().enumerate() {
                four = four << 8 | u32::from(*byte);
                let mut is_known = self.known_bit(hash(four));
                if SHORT {
                    is_known |= self.known_bit(hash(last_three(four)));
                }
                ends |= is_known << n;
            }
            while ends != 0 {
                let end = run * RUN + ends.trailing_zeros() as usize + 1;
                ends &= ends - 1;
                let four = packed(&text[end.saturating_sub(LENGTH_KEY)..end]);
                let (longer, short) = (hash(four), hash(last_three(four)));
                if self.known_bit(longer) == 1 {
                    self.compare(longer, text, end, found);
                }
                if SHORT && short != longer && self.known_bit(short) == 1 {
                    self.compare(short, text, end, found);
                }
            }
        }
    }

    /// Returns 1 if this is the hash of some piece's key, else 0.
    fn known_bit(&self, hash: u16) -> u64 {
        self.known[usize::from(hash / 64)] >> (hash % 64) & 1
    }

    /// Compares the text with all pieces whose key has this hash. In the text, the key ends at
    /// `end`.
    fn compare(&self, hash: u16, text: &[u8], end: usize, found: &mut impl FnMut(usize, usize)) {
        let bucket = bucket(hash);
        for anchor in
            &self.anchors[usize::from(self.starts[bucket])..usize::from(self.starts[bucket + 1])]
        {
            if anchor.hash != hash {
                continue;
            }
            let word = &self.bytes[anchor.at as usize..][..usize::from(anchor.length)];
            let end = end + usize::from(anchor.after);
            let found_word = end
                .checked_sub(word.len())
                .and_then(|start| text.get(start..end));
            // Most differ in the first byte already. Comparing all bytes costs a call.
            if found_word.is_some_and(|found| found.first() == word.first() && found == word) {
                found(usize::from(anchor.piece), end);
            }
        }
    }
}

/// Packs up to four bytes into one number.
fn packed(key: &[u8]) -> u32 {
    key.iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Returns the last three of four packed bytes.
fn last_three(four: u32) -> u32 {
    four & 0x00FF_FFFF
}

/// Returns a hash of [`HASH_BITS`] bits: multiplicative hashing with the golden ratio (Knuth, The
/// Art of Computer Programming, section 6.4).
fn hash(key: u32) -> u16 {
    (key.wrapping_mul(0x9E37_79B1) >> (u32::BITS - HASH_BITS)) as u16
}

/// Returns the bucket of a hash.
fn bucket(hash: u16) -> usize {
    usize::from(hash >> (HASH_BITS - BUCKET_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_is_found_at_every_position() {
        let words = ["user", "unknown", "use", "no ", "потов"];
        let words = words.map(|word| word.as_bytes().to_vec());
        let pieces = Pieces::new(&words);
        for (text, expected) in [
            ("user", vec![0, 2]),
            ("no user unknown", vec![3, 0, 2, 1]),
            ("unknow", vec![]),
            ("потов user", vec![4, 0, 2]),
            ("us", vec![]),
            ("no", vec![]),
            ("use", vec![2]),
            ("", vec![]),
        ] {
            // At every position within a run of bytes.
            for before in 0..=RUN {
                let text = format!("{}{text}", "-".repeat(before));
                let mut found = Vec::new();
                pieces.for_each_in(text.as_bytes(), |piece, _| found.push(piece));
                found.sort_unstable();
                let mut expected = expected.clone();
                expected.sort_unstable();
                assert_eq!(found, expected, "{text}");
            }
        }
    }
}
