//! Fields of the form `Name: value`, in groups separated by blank lines, as in delivery statuses
//! (RFC 3464, section 2.1) and feedback reports. Reading is lenient, because the programs that
//! write them do not follow the rules strictly.

use crate::bounded::on_one_line;
use crate::bounds::MAX_DIAGNOSTIC;

/// The largest number of fields read from one text.
const MAX_FIELDS: usize = 20_000;

/// One field. The name is in lower case, and the value is on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// A group of fields without a blank line between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group(pub(crate) Vec<Field>);

impl Group {
    /// Returns the value of a field that exists and is not empty. If there are several, returns the
    /// first.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Returns all values of a field that are not empty.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |field| field.name == name && !field.value.is_empty())
            .map(|field| field.value.as_str())
    }

    /// Returns a typed value, such as `rfc822; jo@example.com`, without its type.
    pub(crate) fn typed(&self, name: &str) -> Option<&str> {
        let value = self.get(name)?;
        let value = value
            .split_once(';')
            .map_or(value, |(_, value)| value)
            .trim();
        (!value.is_empty()).then_some(value)
    }

    /// Like [`Self::typed`], but for names, which are kept within
    /// [`MAX_NAME`](crate::bounds::MAX_NAME).
    pub(crate) fn name(&self, name: &str) -> Option<String> {
        self.typed(name).and_then(crate::bounded::name)
    }
}

/// Returns the groups of fields in a text. A line that is not a field continues the field before
/// it, even without indentation: some mail systems fold without it.
pub(crate) fn groups(text: &str) -> Vec<Group> {
    let mut groups = vec![Group::default()];
    let mut count = 0;
    for line in text.lines() {
        if line.trim().is_empty() {
            if groups.last().is_some_and(|group| !group.0.is_empty()) {
                groups.push(Group::default());
            }
            continue;
        }
        let Some(group) = groups.last_mut() else {
            break;
        };
        match field(line) {
            Some((name, value)) => {
                count += 1;
                if count > MAX_FIELDS {
                    break;
                }
                group.0.push(Field {
                    name: name.to_ascii_lowercase(),
                    value: value.to_owned(),
                });
            }
            None => {
                if let Some(field) = group
                    .0
                    .last_mut()
                    .filter(|field| field.value.len() < MAX_DIAGNOSTIC)
                {
                    field.value.push('\n');
                    field.value.push_str(line.trim());
                }
            }
        }
    }
    for field in groups.iter_mut().flat_map(|group| &mut group.0) {
        field.value = on_one_line(&field.value, MAX_DIAGNOSTIC);
    }
    groups
}

/// Returns name and value of the field that a line begins. Returns `None` if the line continues the
/// field before it.
fn field(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let plain = !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    plain.then_some((name, value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_grouped_and_unfolded() {
        let read = groups("A: one\n two\nb:3\n\n \nC: x\nnot indented\n C2: nor this\n\n\n");
        assert_eq!(read[0].get("a"), Some("one two"));
        assert_eq!(read[0].get("b"), Some("3"));
        assert_eq!(read[1].get("c"), Some("x not indented C2: nor this"));
        assert!(read[0].get("c").is_none() && read[2].0.is_empty());
    }

    #[test]
    fn a_typed_value_is_read_without_its_type() {
        let group = &groups("F: rfc822; jo@example.com\nG: jo@example.com\nH: rfc822;")[0];
        let typed = |name| group.typed(name);
        assert_eq!(
            (typed("f"), typed("g"), typed("h")),
            (Some("jo@example.com"), Some("jo@example.com"), None)
        );
    }

    #[test]
    fn a_long_value_takes_linear_time_and_is_cut() {
        let read = groups(&format!("A: x\n{}", " y\n".repeat(100_000)));
        assert!(
            read[0]
                .get("a")
                .is_some_and(|value| value.len() <= MAX_DIAGNOSTIC)
        );
    }
}
