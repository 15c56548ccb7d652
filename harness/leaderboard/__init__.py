"""The leaderboard: one entry a (model, method, keep) from the store's tables, as CSV, JSON and HTML.

gathering = Gathering(store)
gathering.add(plan, results.collect(plan, data, store), data)      # once for each experiment
write(gathering.leaderboard(), folder)
"""
