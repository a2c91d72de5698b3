//! An order workflow with handlers of its own: publishes the definition, works as a member of the fleet, takes five orders and waits for their end.
//!
//! ```text
//! longshore dev --workers 0                     # in one terminal: Postgres with the schema, and no other worker
//! export LONGSHORE_DATABASE_URL='postgres://…'  # in another: as the first one says
//! cargo run -p sample-handlers
//! ```
#![allow(clippy::print_stdout)] // it shows what it does

mod bank;
mod handlers;

use anyhow::Context;
use longshore_core::definition::Definition;
use longshore_core::workflow;
use longshore_enqueuer::{Enqueuer, RunState};
use longshore_worker::{Slots, Step, Worker};
use sqlx::PgPool;

use handlers::{Order, Reservation, charge, refund, release, reserve, ship};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url =
        std::env::var("LONGSHORE_DATABASE_URL").context("LONGSHORE_DATABASE_URL is not set: see `longshore dev`")?;
    let pool = PgPool::connect(&url).await.context("cannot connect to Postgres")?;
    open_shop(&pool).await?;
    publish(&pool).await?;

    let (stock, returns) = (pool.clone(), pool.clone());
    let worker = Worker::builder(&url)
        .handler("reserve", move |step: Step, order: Order| reserve(stock.clone(), step, order))
        .handler("charge", charge)
        .handler("ship", ship)
        .handler("refund", refund)
        .handler("release", move |step: Step, goods: Reservation| release(returns.clone(), step, goods))
        .queue("orders", Slots(16))
        .queue("warehouse", Slots(4))
        .start()
        .await?;

    worker.until(take_orders(&pool)).await; // a service would await a signal here
    Ok(())
}

/// The shop's own tables, beside those of Longshore.
async fn open_shop(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql(
        "create schema if not exists shop;
         create table if not exists shop.orders (id bigint generated always as identity primary key, item text not null, quantity bigint not null);
         create table if not exists shop.stock (item text primary key, quantity bigint not null check (quantity >= 0));
         insert into shop.stock values ('lamp', 10), ('piano', 1) on conflict (item) do update set quantity = excluded.quantity;",
    )
    .execute(pool)
    .await
    .context("cannot make the tables of the shop")?;
    Ok(())
}

/// As `longshore workflow apply` does: the same content stays the version it is.
async fn publish(pool: &PgPool) -> anyhow::Result<()> {
    let definition = serde_json::from_str(include_str!("../order-fulfilment.json"))?;
    let definition = Definition::from_json(&definition)?;
    let mut connection = pool.acquire().await?;
    let published = workflow::publish(&mut connection, &definition).await?;
    println!("{} version {}", definition.name, published.version);
    Ok(())
}

/// The producer: it links no handler and could be another program.
async fn take_orders(pool: &PgPool) {
    let enqueuer = Enqueuer::new(pool.clone());
    let orders =
        [("lamp", 2, "good"), ("lamp", 1, "slow"), ("lamp", 1, "declined"), ("piano", 1, "good"), ("lamp", 99, "good")];
    for (item, quantity, card) in orders {
        match take_order(pool, &enqueuer, item, quantity, card).await {
            Ok(line) => println!("{line}"),
            Err(error) => println!("{quantity} x {item}: {error:#}"),
        }
    }
}

/// The order and its run begin together: both are there once the transaction has committed, or neither is.
async fn take_order(
    pool: &PgPool,
    enqueuer: &Enqueuer,
    item: &str,
    quantity: i64,
    card: &str,
) -> anyhow::Result<String> {
    let mut tx = pool.begin().await?;
    let order: i64 = sqlx::query_scalar("insert into shop.orders (item, quantity) values ($1, $2) returning id")
        .bind(item)
        .bind(quantity)
        .fetch_one(&mut *tx)
        .await?;
    let input = Order { order, item: item.to_owned(), quantity, cents: 4_900, card: card.to_owned() };
    let run = enqueuer.start("order-fulfilment", &input).key(format!("order-{order}")).in_transaction(&mut tx).await?;
    tx.commit().await?;

    let ended = enqueuer.wait(run.id).await?;
    let result = match ended.state {
        RunState::Completed => ended.output::<serde_json::Value>()?.to_string(),
        _ => ended.error.map(|error| format!("{}: {}", error.name, error.message)).unwrap_or_default(),
    };
    Ok(format!("{quantity} x {item}, card {card}: {} {result}", ended.state))
}
