select now() - $1::interval
