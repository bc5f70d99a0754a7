"""Files and folders that lie elsewhere: addresses, and the bytes behind them, of which only ranges are fetched.

`addresses` is what a user types, `fetching` the bytes of one file, `http` and `stores` what they are fetched from,
`folders` what lies in a folder.
"""
