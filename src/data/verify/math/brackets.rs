//! Matching of brackets, done once before parsing: looking ahead for the partner of every bracket would take time
//! quadratic in their number, or worse.

use super::lexer::{Kind, Token};

/// For every opening brace or bracket the index of the one that closes it. Any bracket closes any other
/// (`[0, 1)` is an interval), but none across a brace.
pub fn partners(tokens: &[Token<'_>]) -> Vec<Option<usize>> {
    let mut partner = vec![None; tokens.len()];
    let mut open: Vec<usize> = Vec::new();
    let mut braces = 0usize;
    for (at, token) in tokens.iter().enumerate() {
        if token.kind == Kind::Char('{') {
            braces += 1;
            open.push(at);
        } else if opening(token.kind).is_some() {
            open.push(at);
        } else if token.kind == Kind::Char('}') && braces > 0 {
            while let Some(from) = open.pop() {
                if tokens[from].kind == Kind::Char('{') {
                    partner[from] = Some(at);
                    braces -= 1;
                    break;
                }
            }
        } else if closing(token.kind).is_some()
            && let Some(from) = open.pop_if(|from| tokens[*from].kind != Kind::Char('{'))
        {
            partner[from] = Some(at);
        }
    }
    partner
}

/// The bracket that a token opens.
pub fn opening(kind: Kind<'_>) -> Option<char> {
    match kind {
        Kind::Char(c @ ('(' | '[')) => Some(c),
        Kind::Command("{") => Some('{'),
        Kind::Command("langle") => Some('⟨'),
        _ => None,
    }
}

/// The bracket that a token closes.
pub fn closing(kind: Kind<'_>) -> Option<char> {
    match kind {
        Kind::Char(c @ (')' | ']')) => Some(c),
        Kind::Command("}") => Some('}'),
        Kind::Command("rangle") => Some('⟩'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer::lex;
    use super::*;

    #[test]
    fn brackets_pair_within_braces() {
        let pairs = |text: &str| -> Vec<(usize, usize)> {
            let partner = partners(&lex(text));
            partner.into_iter().enumerate().filter_map(|(from, to)| Some((from, to?))).collect()
        };
        assert_eq!(pairs("(a[b)]"), [(0, 5), (2, 4)]);
        assert_eq!(pairs(r"[0,1)\{2\}"), [(0, 4), (5, 7)]);
        assert_eq!(pairs("{(}a)"), [(0, 2)]);
        assert_eq!(pairs("({)}"), [(1, 3)]);
        assert_eq!(pairs("}})(("), []);
    }
}
