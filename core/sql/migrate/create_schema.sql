create schema if not exists longshore
