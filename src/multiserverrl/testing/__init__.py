"""For tests of envs, clients and servers: a real server, a relay that breaks connections, a contract, small envs.

Public, and on top of everything else: nothing in the package imports it.
"""
