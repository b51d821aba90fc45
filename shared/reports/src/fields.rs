//! Fields of the form `Name: value`, in groups with blank lines between them: what a delivery
//! status consists of (RFC 3464, section 2.1), and a feedback report. Reading is lenient, because
//! so are those who write them.

use crate::bounded::on_one_line;
use crate::bounds::MAX_DIAGNOSTIC;

/// Fields that are read of one text.
const MAX_FIELDS: usize = 20_000;

/// One field. The name is in lower case; the value is on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// A group of fields that stand together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group(pub(crate) Vec<Field>);

impl Group {
    /// The value of a field that is there and not empty; the first where there are several.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |field| field.name == name && !field.value.is_empty())
            .map(|field| field.value.as_str())
    }

    /// A value that is of a type, `rfc822; jo@example.com`, without the type.
    pub(crate) fn typed(&self, name: &str) -> Option<&str> {
        let value = self.get(name)?;
        let value = value
            .split_once(';')
            .map_or(value, |(_, value)| value)
            .trim();
        (!value.is_empty()).then_some(value)
    }

    /// As [`Self::typed`], for names.
    pub(crate) fn name(&self, name: &str) -> Option<String> {
        self.typed(name).and_then(crate::bounded::name)
    }
}

/// The groups of fields in a text. A line that is neither a field nor its continuation goes on with
/// the field before it: some mail systems fold without indenting.
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

/// Name and value of the field that a line begins; `None` where it goes on with the one before.
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
    fn groups_have_their_fields_unfolded() {
        let read = groups("A: one\n two\nb:3\n\n \nC: x\nnot indented\n C2: nor this\n\n\n");
        assert_eq!(read[0].get("a"), Some("one two"));
        assert_eq!(read[0].get("b"), Some("3"));
        assert_eq!(read[1].get("c"), Some("x not indented C2: nor this"));
        assert!(read[0].get("c").is_none() && read[2].0.is_empty());
    }

    #[test]
    fn a_typed_value_loses_its_type() {
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
