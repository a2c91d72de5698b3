//! Inputs made of other inputs: bytes changed, parts cut out, repeated, or put together, and words of the target's language put in.

use rand::Rng;
use rand::rngs::StdRng;

/// The longest input.
const MOST: usize = 64 * 1024;

/// Words that readers of all kinds know, and the edges of numbers.
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "\"",
    "'",
    ":",
    ",",
    "\\",
    "\\u0000",
    "\\ud83d",
    "\\ude00",
    "null",
    "true",
    "false",
    "-",
    "0",
    "-0.0",
    "1e308",
    "1e309",
    "1e-400",
    "1E19",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "170141183460469231731687303715884105728",
    "0.000001",
    "99999999999999999999999999",
    "é",
    "\u{1F600}",
    "ß",
    "\u{0}",
    "\n",
    "\u{feff}",
    "{{ ",
    " }}",
    "{{",
    "}}",
    "{%",
    "{#",
    "run.input",
    "run.key",
    "run.version",
    "nodes.a.output",
    "nodes[\"a\"].error",
    "error",
    "input",
    " and ",
    " or ",
    " not ",
    " in ",
    " is ",
    " if ",
    " else ",
    "|",
    ".",
    "[0]",
    "[-1]",
    "[::-1]",
    "[1:]",
    "[:5:-1]",
    "+",
    "*",
    "**",
    "/",
    "//",
    "%",
    "~",
    "==",
    "!=",
    "<",
    "<=",
    "|sort",
    "|unique",
    "|items",
    "|reverse",
    "|join(\"x\")",
    "|map(attribute=\"a\")",
    "|map(attribute=\"z\",default=run.input)",
    "|replace(\"\",\"x\")",
    "|select(\"divisibleby\",0)",
    "|tojson",
    "|int",
    "|float",
    "|round(400)",
    "|sum",
    "|split(\"\")",
    "|length",
    "|default(1)",
    " is divisibleby(0)",
    "is defined",
    "1h30m",
    "250ms",
    "0.5s",
    "1w",
    "36525d",
    "us",
    "\"id\"",
    "\"type\"",
    "\"task\"",
    "\"set\"",
    "\"delay\"",
    "\"fail\"",
    "\"terminate\"",
    "\"handler\"",
    "\"input\"",
    "\"output\"",
    "\"nodes\"",
    "\"edges\"",
    "\"from\"",
    "\"to\"",
    "\"on\"",
    "\"when\"",
    "\"always\"",
    "\"failure\"",
    "\"join\"",
    "\"any\"",
    "\"retry\"",
    "\"max_attempts\"",
    "\"timeout\"",
    "\"input_schema\"",
    "\"$ref\"",
    "\"#\"",
    "\"allOf\"",
    "\"pattern\"",
    "\"until\"",
    "\"duration\"",
    "\"parents\"",
    "\"children\"",
    "\"runtimeInSeconds\"",
    "\"schemaVersion\"",
    "\"1.5\"",
    "\"specification\"",
    "\"execution\"",
    "\"tasks\"",
];

/// A changed input; `others` are what parts may be taken from.
pub(crate) fn mutate(rng: &mut StdRng, input: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..rng.random_range(1..=6) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..=16)).min(bytes.len());
        match rng.random_range(0..8) {
            0 => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << rng.random_range(0..8)),
            1 => bytes.get_mut(at).into_iter().for_each(|byte| *byte = rng.random()),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let part = bytes[at..end].repeat(rng.random_range(1..=40));
                bytes.splice(at..at, part);
            }
            4 if !others.is_empty() => {
                let other = &others[rng.random_range(0..others.len())];
                let from = rng.random_range(0..=other.len());
                let to = (from + rng.random_range(0..=200)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            5 => {
                let word = WORDS[rng.random_range(0..WORDS.len())];
                bytes.splice(at..end, word.repeat(rng.random_range(1..=60)).into_bytes());
            }
            _ => {
                let word = WORDS[rng.random_range(0..WORDS.len())];
                bytes.splice(at..at, word.bytes());
            }
        }
    }
    bytes.truncate(MOST);
    bytes
}
