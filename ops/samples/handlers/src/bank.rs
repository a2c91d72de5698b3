//! Stands in for a payment service: it answers slowly, fails now and then, and knows a request that it has seen before by its key.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Why the bank did not pay.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It answers again later.
    Busy,
    /// It will never pay with this card.
    Declined,
}

struct Charge {
    number: String,
    cents: u64,
}

#[derive(Default)]
struct Books {
    /// Requests that met a busy bank.
    turned_away: Vec<String>,
    charges: HashMap<String, Charge>,
}

static BOOKS: Mutex<Option<Books>> = Mutex::new(None);

/// Takes the money once for each key; the number of the receipt. The card `declined` is declined, the card `slow` meets a busy bank at first.
pub(crate) async fn charge(card: &str, cents: u64, key: &str) -> Result<String, Refusal> {
    tokio::time::sleep(Duration::from_millis(20)).await;
    in_books(|books| {
        if card == "declined" {
            return Err(Refusal::Declined);
        }
        if card == "slow" && !books.turned_away.iter().any(|known| known == key) {
            books.turned_away.push(key.to_owned());
            return Err(Refusal::Busy);
        }
        let next = books.charges.len() + 1;
        let charge =
            books.charges.entry(key.to_owned()).or_insert_with(|| Charge { number: format!("C-{next}"), cents });
        Ok(charge.number.clone())
    })
}

/// Gives the money of a receipt back; how much that was.
pub(crate) async fn refund(receipt: &str) -> Option<u64> {
    tokio::time::sleep(Duration::from_millis(20)).await;
    in_books(|books| books.charges.values().find(|charge| charge.number == receipt).map(|charge| charge.cents))
}

fn in_books<T>(look: impl FnOnce(&mut Books) -> T) -> T {
    let mut books = BOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    look(books.get_or_insert_default())
}
