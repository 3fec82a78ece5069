"""For tests of envs, clients and servers: contracts, a server to run, a fake one, a relay that breaks it, small envs.

Public, and on top of everything else: nothing in the package imports it but `multiserverrl check`.
"""
