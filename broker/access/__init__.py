"""Who a peer is, and who may read the files of a broker."""
