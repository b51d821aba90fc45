//! Where instants are drawn on a line of text. Waits grow from minutes to days, so a long wait may
//! be drawn shorter than it is.

use domain::clock::Timestamp;

/// How many columns the shortest wait should have, so that its length can be written into it.
const GAP_MIN: usize = 6;

/// A wait is as wide as its length to the power of one of these. The first with which the shortest
/// wait is wide enough is used. With 1, the line is to scale.
const EXPONENTS: [f64; 6] = [1.0, 0.5, 0.33, 0.25, 0.16, 0.1];

/// The columns of some instants.
#[derive(Debug, PartialEq)]
pub(super) struct Axis {
    /// One column for each instant. Each is right of the one before.
    pub(super) columns: Vec<usize>,
    /// Whether twice the time is drawn twice as wide.
    pub(super) is_to_scale: bool,
}

impl Axis {
    /// Places instants, which are in order, from column 0 to column `width` - 1. There must be more
    /// columns than instants.
    pub(super) fn new(instants: &[Timestamp], width: usize) -> Self {
        let gaps: Vec<f64> = instants
            .windows(2)
            .map(|two| two[1].since(two[0]).as_secs_f64())
            .collect();
        let last = width.saturating_sub(1);
        let wanted = GAP_MIN.min(last / gaps.len().max(1));
        let mut columns = Vec::new();
        for exponent in EXPONENTS {
            columns = place(&gaps, exponent, last);
            if columns.windows(2).all(|two| two[1] - two[0] >= wanted) {
                let is_to_scale = exponent >= 1.0;
                return Self {
                    columns,
                    is_to_scale,
                };
            }
        }
        Self {
            columns,
            is_to_scale: false,
        }
    }
}

/// Distributes the columns up to `last` over the gaps. Each gap gets one column, and a share of the
/// others that is its length to the power of `exponent`.
fn place(gaps: &[f64], exponent: f64, last: usize) -> Vec<usize> {
    let weights: Vec<f64> = gaps.iter().map(|gap| gap.powf(exponent)).collect();
    let total: f64 = weights.iter().sum();
    let room = last.saturating_sub(gaps.len()) as f64;
    let mut columns = vec![0];
    let mut sum = 0.0;
    for (n, weight) in weights.iter().enumerate() {
        sum += weight;
        let share = if total > 0.0 {
            sum / total
        } else {
            (n + 1) as f64 / gaps.len() as f64
        };
        columns.push(n + 1 + (share * room).round() as usize);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(minutes: &[i64], width: usize) -> Axis {
        let instants: Vec<Timestamp> = minutes
            .iter()
            .map(|minutes| Timestamp::from_ms(minutes * 60_000))
            .collect();
        Axis::new(&instants, width)
    }

    #[test]
    fn similar_waits_are_drawn_to_scale() {
        let axis = axis(&[0, 30, 60, 120], 43);
        assert_eq!(axis.columns, [0, 11, 22, 42]);
        assert!(axis.is_to_scale);
    }

    #[test]
    fn a_short_wait_keeps_room_beside_a_long_one() {
        // 30 minutes, an hour, a day, two days, a week.
        let axis = axis(&[0, 30, 90, 1_530, 4_410, 14_490], 60);
        assert!(!axis.is_to_scale);
        assert_eq!(axis.columns, [0, 7, 15, 28, 42, 59]);
    }

    #[test]
    fn instants_at_the_same_time_have_columns_of_their_own() {
        assert_eq!(axis(&[5, 5, 5], 9).columns, [0, 4, 8]);
        assert_eq!(axis(&[0, 0, 90], 21).columns, [0, 1, 20]);
        assert_eq!(axis(&[7], 20).columns, [0]);
    }
}
