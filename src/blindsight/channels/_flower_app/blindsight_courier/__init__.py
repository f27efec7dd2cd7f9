"""A Flower app that carries parcels between the sockets of Blindsight's processes, and cannot read them."""
