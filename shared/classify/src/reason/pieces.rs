//! Which of many short pieces occur in a text. A classic automaton of them has megabytes, and
//! misses the processor's caches with nearly every byte. Here each piece is looked for by four of
//! its bytes, the ones that the fewest share, or by all three: a table of one bit for each hash of
//! them stays in the fastest cache, and where its bit is set the piece is compared. The table is
//! asked for a run of bytes at once, without a way out amid it, since most ask in vain.

/// How many bytes a piece has at least.
pub(super) const LENGTH_MIN: usize = 3;

/// By how many bytes a longer piece is looked for.
const LENGTH_KEY: usize = 4;

/// Bits of a hash.
const HASH_BITS: u32 = 16;

/// Bits of a hash by which its anchors are found.
const BUCKET_BITS: u32 = 11;

/// For how many bytes of a text the table is asked at once.
const RUN: usize = u64::BITS as usize;

/// Pieces, numbered in the order in which they were given. They and the texts are in lower case.
pub(super) struct Pieces {
    /// The bits of the hashes that some piece is looked for by.
    known: Box<[u64; (1 << HASH_BITS) / 64]>,
    /// Where in `anchors` those of a bucket of hashes begin; they end where the next bucket's
    /// begin.
    starts: Box<[u16; (1 << BUCKET_BITS) + 1]>,
    anchors: Vec<Anchor>,
    /// The bytes of all pieces.
    bytes: Vec<u8>,
}

/// The bytes that a piece is looked for by.
#[derive(Clone, Copy)]
struct Anchor {
    hash: u16,
    piece: u16,
    /// How many bytes of the piece stand behind them.
    behind: u16,
    length: u16,
    /// Where the piece is in the bytes of all.
    at: u32,
}

impl Pieces {
    /// Takes pieces of [`LENGTH_MIN`] bytes and more, of which there can be 65,535. Shorter ones
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
            anchors.extend(rarest.map(|(behind, hash)| Anchor {
                hash,
                piece: number(piece),
                behind: number(behind),
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
            bytes,
        }
    }

    /// Calls `found` with the number of each piece that occurs in `text`, as often as it occurs.
    /// Takes time linear in `text`.
    pub(super) fn each(&self, text: &[u8], mut found: impl FnMut(usize)) {
        let mut four = 0;
        for (run, bytes) in text.chunks(RUN).enumerate() {
            let mut ends = 0_u64;
            for (n, byte) in bytes.iter().enumerate() {
                four = four << 8 | u32::from(*byte);
                ends |= (self.knows(hash(four)) | self.knows(hash(last_three(four)))) << n;
            }
            while ends != 0 {
                let end = run * RUN + ends.trailing_zeros() as usize + 1;
                ends &= ends - 1;
                let four = packed(&text[end.saturating_sub(LENGTH_KEY)..end]);
                let (longer, short) = (hash(four), hash(last_three(four)));
                self.compare(longer, text, end, &mut found);
                if short != longer {
                    self.compare(short, text, end, &mut found);
                }
            }
        }
    }

    /// The bit of a hash.
    fn knows(&self, hash: u16) -> u64 {
        self.known[usize::from(hash / 64)] >> (hash % 64) & 1
    }

    /// Compares the pieces of a hash whose bytes end at `end`.
    fn compare(&self, hash: u16, text: &[u8], end: usize, found: &mut impl FnMut(usize)) {
        let bucket = bucket(hash);
        for anchor in
            &self.anchors[usize::from(self.starts[bucket])..usize::from(self.starts[bucket + 1])]
        {
            if anchor.hash != hash {
                continue;
            }
            let word = &self.bytes[anchor.at as usize..][..usize::from(anchor.length)];
            let end = end + usize::from(anchor.behind);
            if end
                .checked_sub(word.len())
                .and_then(|start| text.get(start..end))
                == Some(word)
            {
                found(usize::from(anchor.piece));
            }
        }
    }
}

/// Up to four bytes as one number.
fn packed(key: &[u8]) -> u32 {
    key.iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The last three of four bytes.
fn last_three(four: u32) -> u32 {
    four & 0x00FF_FFFF
}

/// A number of [`HASH_BITS`]: multiplicative hashing, by the golden ratio (Knuth, The Art of
/// Computer Programming, section 6.4).
fn hash(key: u32) -> u16 {
    (key.wrapping_mul(0x9E37_79B1) >> (u32::BITS - HASH_BITS)) as u16
}

/// The bucket of a hash.
fn bucket(hash: u16) -> usize {
    usize::from(hash >> (HASH_BITS - BUCKET_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_is_found_wherever_it_stands() {
        let words = ["user", "unknown", "use", "no ", "потов"].map(|word| word.as_bytes().to_vec());
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
            // Wherever in a run of bytes it ends.
            for before in 0..=RUN {
                let text = format!("{}{text}", "-".repeat(before));
                let mut found = Vec::new();
                pieces.each(text.as_bytes(), |piece| found.push(piece));
                found.sort_unstable();
                let mut expected = expected.clone();
                expected.sort_unstable();
                assert_eq!(found, expected, "{text}");
            }
        }
    }
}
