//! The handlers of `order-fulfilment.json`: plain async functions from a step and its input to an output or a failure.
//! Each may run more than once for one step, so each is safe to repeat: it hands the step's idempotency key on, or writes in the very
//! transaction that completes the step.

use longshore_worker::{Failure, Step};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::bank::{self, Refusal};

/// What a run of the workflow is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) order: i64,
    pub(crate) item: String,
    pub(crate) quantity: i64,
    pub(crate) cents: u64,
    pub(crate) card: String,
}

/// Goods that are set aside for an order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reservation {
    item: String,
    quantity: i64,
}

/// Set the goods aside. The stock and the step's completion are written in one transaction: the goods are taken exactly once.
pub(crate) async fn reserve(shop: PgPool, step: Step, order: Order) -> Result<Reservation, Failure> {
    let completion = step.transaction().await?;
    let mut tx = shop.begin().await?;
    let taken = sqlx::query(
        "update shop.stock set quantity = quantity - $2 where item = $1 and quantity >= $2 returning quantity",
    )
    .bind(&order.item)
    .bind(order.quantity)
    .fetch_optional(&mut *tx)
    .await?;
    if taken.is_none() {
        let text = format!("there are no {} of the item {:?}", order.quantity, order.item);
        return Err(Failure::permanent(text).named("sold_out"));
    }
    let reservation = Reservation { item: order.item, quantity: order.quantity };
    completion.complete_in(tx, &reservation).await?;
    Ok(reservation)
}

#[derive(Deserialize)]
pub(crate) struct Charge {
    cents: u64,
    card: String,
}

#[derive(Serialize)]
pub(crate) struct Receipt {
    number: String,
}

/// Take the money. A busy bank is asked again as the node's retry policy says; a declined card is a failure for good.
pub(crate) async fn charge(step: Step, charge: Charge) -> Result<Receipt, Failure> {
    let number =
        bank::charge(&charge.card, charge.cents, step.idempotency_key()).await.map_err(|refusal| match refusal {
            Refusal::Busy => Failure::retryable("the bank is busy").named("bank_busy"),
            Refusal::Declined => Failure::permanent("the card is declined").named("card_declined"),
        })?;
    Ok(Receipt { number })
}

#[derive(Deserialize)]
pub(crate) struct Shipment {
    order: i64,
    item: String,
    quantity: i64,
}

#[derive(Serialize)]
pub(crate) struct Parcel {
    parcel: String,
}

/// Hand the goods to the carrier, which takes no pianos.
pub(crate) async fn ship(_: Step, shipment: Shipment) -> Result<Parcel, Failure> {
    if shipment.item == "piano" {
        return Err(Failure::permanent("the carrier takes no pianos").named("too_heavy"));
    }
    Ok(Parcel { parcel: format!("P-{}-{}x{}", shipment.order, shipment.quantity, shipment.item) })
}

#[derive(Deserialize)]
pub(crate) struct Refund {
    receipt: String,
}

#[derive(Serialize)]
pub(crate) struct Refunded {
    cents: u64,
}

/// Give the money back.
pub(crate) async fn refund(_: Step, refund: Refund) -> Result<Refunded, Failure> {
    match bank::refund(&refund.receipt).await {
        Some(cents) => Ok(Refunded { cents }),
        None => Err(Failure::permanent(format!("the bank knows no receipt {}", refund.receipt))),
    }
}

/// Put reserved goods back, exactly once, as [`reserve`] took them.
pub(crate) async fn release(shop: PgPool, step: Step, reservation: Reservation) -> Result<Reservation, Failure> {
    let completion = step.transaction().await?;
    let mut tx = shop.begin().await?;
    sqlx::query("update shop.stock set quantity = quantity + $2 where item = $1")
        .bind(&reservation.item)
        .bind(reservation.quantity)
        .execute(&mut *tx)
        .await?;
    completion.complete_in(tx, &reservation).await?;
    Ok(reservation)
}
