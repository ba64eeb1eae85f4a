"""The goodput benchmark without a network: the same faults, the same planner, a clock that jumps."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import sys
from deadline.aws import _attempts as A
from deadline.aws._attempts import Limits, attempt_limit, backoff, fits, hedge_after
from deadline.aws._latency import Latency
from deadline.aws._hedging import Budget

@dataclass(frozen=True)
class Column:
    name: str
    median: float = 0.020
    sigma: float = 0.4
    hang: float = 0.0
    straggle: float = 0.0
    factor: float = 40.0
    drip: float = 0.0
    reset: float = 0.0
    burst: float = 0.0      # seconds of throttling in each period
    period: float = 1.0
    dead_address: bool = False
    heavy: float = 0.0
    degrades: float = 1.0   # median times this in the middle half of a process

HEALTHY = Column("healthy")
COLUMNS = [
    replace(HEALTHY, name="3 % hang", hang=.03),
    replace(HEALTHY, name="10 % hang", hang=.10),
    replace(HEALTHY, name="slow", median=.25),
    replace(HEALTHY, name="slow + 3 % hang", median=.25, hang=.03),
    replace(HEALTHY, name="5 % 40x", straggle=.05),
    HEALTHY,
    replace(HEALTHY, name="throttling", burst=.3),
    replace(HEALTHY, name="10 % reset", reset=.10),
    replace(HEALTHY, name="5 % drip", drip=.05),
    replace(HEALTHY, name="dead address", dead_address=True),
    replace(HEALTHY, name="5% heavy calls", heavy=.05),
    replace(HEALTHY, name="degrades", degrades=12.5),
]
def drawn(seed):
    r = random.Random(seed)
    return Column(f"drawn", median=math.exp(r.uniform(math.log(.005), math.log(.3))), sigma=r.uniform(.2,.8),
        hang=r.choice((0,r.uniform(0,.12))), straggle=r.choice((0,r.uniform(0,.1))), factor=r.uniform(5,50), reset=r.choice((0,r.uniform(0,.1))), drip=r.choice((0,r.uniform(0,.05))))

ANSWER, SILENCE, DRIP, RESET, THROTTLE = range(5)

class World:
    """One invocation's network."""
    def __init__(self, column, rng, degraded_from=math.inf, degraded_to=-math.inf):
        self.c=column; self.rng=rng; self.tables={}
        self.phase=rng.random()*column.period
        self.rot=rng.randrange(2); self.idle=0
        self.degraded=(degraded_from,degraded_to)
        self.requests=0
    def draws(self, call, attempt):
        key=(call,attempt)
        t=self.tables.get(key)
        if t is None:
            r=random.Random(self.seed*1000003+call*1009+attempt)
            t=self.tables[key]=(r.gauss(0,1), r.random(), r.random())
        return t
    def send(self, call, attempt, now):
        self.requests+=1
        c=self.c
        z,u,_=self.draws(call,attempt)
        if c.dead_address:
            if self.idle: self.idle-=1
            else:
                self.rot^=1
                if self.rot: return SILENCE, math.inf
        m=c.median
        if self.degraded[0]<=call<self.degraded[1]: m*=c.degrades
        if c.heavy and random.Random(self.seed*31+call).random()<c.heavy: m*=c.factor
        t=m*math.exp(c.sigma*z)
        if c.burst and (now+self.phase)%c.period<c.burst: return THROTTLE, now+.005
        for kind,p in ((SILENCE,c.hang),(DRIP,c.drip),(RESET,c.reset),(-1,c.straggle)):
            if u<p:
                if kind==SILENCE: return SILENCE, math.inf
                if kind==DRIP: return DRIP, math.inf
                if kind==RESET: return RESET, now+t/2
                return ANSWER, now+t*c.factor
            u-=p
        return ANSWER, now+t

def legacy(rng,n): return 0.05*2**(n-1)
def standard(rng,n): return min(rng.random()*2**(n-1),20)

class Plain:
    def __init__(self,name,read=60.0,attempts=10,delay=legacy):
        self.name=name;self.read=read;self.attempts=attempts;self.delay=delay
    def process(self,rng): return self
    def call(self,world,number,now,end,rng):
        for n in count(1):
            kind,at=world.send(number,n,now)
            if kind==ANSWER and at<=now+self.read:
                if at>end: return
                yield at; world.idle+=1; return "ok"
            now = min(at,now+self.read) if kind!=DRIP else math.inf
            if kind in (THROTTLE,): now=at
            if kind==THROTTLE: world.idle+=1
            if n>=self.attempts or now>=end: return
            now+=self.delay(rng,n)
            if now>=end: return
            yield now

GROWTH=1.0
class Ours:
    def __init__(self,name,hedge=False,attempts=10):
        self.name=name;self.hedge=hedge;self.attempts=attempts;self.delay=legacy
    G=1.0
    def process(self,rng):
        p=Ours(self.name,self.hedge,self.attempts); p.latency=Latency(); p.budget=Budget(); return p
    def call(self,world,number,now,end,rng):
        lat=self.latency
        self.budget.earn()
        attempt=1; retries=0; lim=Limits(); spent=0.0
        def plan(left,further,lim,lat):
            l=attempt_limit(left,further,lim,lat)
            return l
        while True:
            left=end-now
            if not fits(left,lim): return
            further=self.attempts-attempt
            limit=plan(left,further,lim,lat)
            flights=[(now,)+world.send(number,attempt,now)]
            cut=now+limit
            hedge_at=math.inf
            if self.hedge:
                hedge_at=now+hedge_after(left,further,lim,lat)
            failed=None
            while True:
                done=min(f[2] for f in flights)
                t=min(done,cut,hedge_at)
                if t>=end:
                    yield end
                    for g in flights: lat.given_up(end-g[0])
                    return
                yield t
                if t==done:
                    f=next(f for f in flights if f[2]==t)
                    flights.remove(f)
                    world.idle+=f[1] in (ANSWER,THROTTLE)
                    if f[1]==ANSWER:
                        lat.answered(t-f[0])
                        if spent: lat.tried_again(faster=t-f[0]<=spent)
                        for g in flights: lat.given_up(t-g[0])
                        return "ok"
                    if f[1]==THROTTLE: self.budget.throttled()
                    failed=f[1]; now=t
                    if not flights: break
                elif t==hedge_at:
                    sent=flights[-1][0]
                    again=sent+hedge_after(end-sent,self.attempts-attempt,lim,lat)
                    if again>t+1e-6: hedge_at=again; continue
                    hedge_at=math.inf
                    if self.budget.spend() :
                        attempt+=1
                        flights.append((t,)+world.send(number,attempt,t))
                        spent=max(spent,t-now); lim2=plan(end-t,self.attempts-attempt,lim,lat)
                        cut=t+lim2
                        if attempt<self.attempts:
                            hedge_at=t+hedge_after(end-t,self.attempts-attempt,lim,lat)
                else:
                    sent=flights[-1][0]
                    again=sent+plan(end-sent,self.attempts-attempt,lim,lat)
                    if again>t+1e-6: cut=again; continue
                    for g in flights: lat.given_up(t-g[0])
                    if spent: lat.tried_again(faster=False)
                    spent=max(spent,t-sent)
                    failed=SILENCE; now=t; break
            if attempt>=self.attempts: return
            retries+=1
            pause=backoff(self.delay(rng,retries),end-now,limit if failed==SILENCE else None)
            if not fits(end-now,lim,pause): return
            now+=pause
            attempt+=1
            yield now

class SketchCut:
    hedge=False
    def __init__(self,name): self.name=name
    def process(self,rng): p=SketchCut(self.name); p.seen=[]; return p
    def q(self,x):
        s=sorted(self.seen)
        return s[int(x*(len(s)-1))] if len(s)>=5 else None
    def call(self,world,number,now,end,rng):
        q=self.q(.99); base=q if q else .5
        for n in range(1,7):
            limit=base*1.3**(n-1) if n<6 else math.inf
            kind,at=world.send(number,n,now)
            if min(at,now+limit)>=end: return
            if at<=now+limit:
                yield at
                if kind==ANSWER: self.seen.append(at-now); self.seen=self.seen[-100:]; world.idle+=1; return "ok"
                now=at+legacy(rng,n)
                world.idle+=kind==THROTTLE
            else:
                self.seen.append(limit*1.0); self.seen=self.seen[-100:]
                now+=limit
            if now>=end: return
            yield now

class SketchHedge(SketchCut):
    def process(self,rng): p=SketchHedge(self.name); p.seen=[]; return p
    def call(self,world,number,now,end,rng):
        q=self.q(.95); gap=1.5*q if q else .5
        flights=[(now,)+world.send(number,1,now)]; n=1; nxt=now+gap
        while True:
            done=min((f[2] for f in flights),default=math.inf)
            t=min(done,nxt)
            if t>=end: return
            yield t
            if t==done:
                f=next(f for f in flights if f[2]==t); flights.remove(f)
                world.idle+=f[1] in (ANSWER,THROTTLE)
                if f[1]==ANSWER:
                    self.seen.append(t-f[0])
                    self.seen+=[t-g[0] for g in flights]; self.seen=self.seen[-100:]; return "ok"
                if n<5 : nxt=min(nxt,t+legacy(rng,n))
                if not flights and n>=5: return
            else:
                n+=1; flights.append((t,)+world.send(number,n,t))
                gap*=1.6; nxt=t+gap if n<5 else math.inf

POLICIES=[
    Plain("promise race"),
    Plain("client timeout",read=1.0,attempts=2),
    Plain("0.5 s x 3",read=.5,attempts=3),
    Plain("1 s x 3",read=1.,attempts=3),
    Plain("standard",attempts=3,delay=standard),
    SketchCut("sketch cut"),
    SketchHedge("sketch hedge"),
    Ours("ours"),
    Ours("ours, hedged",hedge=True),
]

def sequential(policy,world,rng,budget):
    now=0.0
    for number in range(5):
        g=policy.call(world,number,now,budget,rng)
        try:
            while True: now=next(g)
        except StopIteration as stop:
            if stop.value!="ok": return None
    return now

def concurrent(policy,world,rng,budget,n=20):
    heap=[]
    for number in range(n):
        heap.append((0.0,number,policy.call(world,number,0.0,budget,rng)))
    last=0
    while heap:
        t,number,g=heapq.heappop(heap)
        try: heapq.heappush(heap,(next(g),number,g))
        except StopIteration as stop:
            if stop.value!="ok": return None
            last=max(last,t)
    return last

def cell(policy,column,processes,load=sequential,budget=2.0,invocations=20,seed=1,fails=None):
    ok=[];req=0;runs=0
    for p in range(processes):
        prng=random.Random(f"{seed}{p}")
        mine=policy.process(prng)
        warm=20 if p%2 else 0
        calls=5 if load is sequential else 20
        for i in range(-warm,invocations):
            col=column if i>=0 else HEALTHY
            rng=random.Random(p*1000+i*7+13)
            d=(math.inf,-math.inf)
            if col.degrades!=1:
                a,b=calls//2,calls
                d=(a,b) if i==5 else (0,b) if 5<i<14 else (0,a) if i==14 else d
                if load is concurrent: d=(0,b) if 5<=i<14 else d
            w=World(col,rng,*d); w.seed=seed*7919+p*977+i+100
            took=load(mine,w,rng,budget)
            if i>=0:
                runs+=1; req+=w.requests
                if took is not None: ok.append(took)
                elif fails is not None: fails[(p%2,i)]=fails.get((p%2,i),0)+1
    ok.sort()
    q=lambda s: ok[min(len(ok)-1,int(s*len(ok)))] if ok else math.nan
    return 100*len(ok)/runs,1000*q(.5),1000*q(.99),req/max(1,len(ok))/(5 if load is sequential else 20)

def show(processes=50,columns=None,policies=None,load=sequential,budget=2.0,seed=1):
    for c in columns or COLUMNS+[drawn(3),drawn(4),drawn(5)]:
        print(f"--- {c.name} {load.__name__}")
        for p in policies or POLICIES:
            s,a,b,r=cell(p,c,processes,load,budget,seed=seed)
            print(f"   {p.name:16} {s:6.2f} %  p50 {a:6.0f}  p99 {b:6.0f} ms  req {r:.3f}",flush=True)
if __name__=="__main__":
    n=int(sys.argv[1]) if len(sys.argv)>1 else 25
    if "ours" in sys.argv: POLICIES=POLICIES[-4:]
    show(n,policies=POLICIES)
    if "con" in sys.argv: show(n//2,load=concurrent,budget=1.0,policies=POLICIES)
